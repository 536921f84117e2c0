package main

import (
	"context"
	"fmt"
	"log"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"aistack/e2e/peers/etcd/peers"
)

// leader is the member that leads, and says so itself.
func (c *cluster) leader() *member {
	for until := time.Now().Add(peers.Patience); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		for _, m := range c.members {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			status, err := c.client.Status(ctx, m.endpoint)
			cancel()
			if err == nil && status.Leader == status.Header.MemberId {
				return m
			}
		}
	}
	log.Fatal(c.name, ": no member leads")
	return nil
}

// killed ends the leader by SIGKILL while new puts come to the others every few milliseconds, whatever became of those before,
// and answers the longest time in which none was acknowledged.
func killed(_ *bench, c *cluster) figures {
	const pace = 5 * time.Millisecond
	leader := c.leader()
	var lock sync.Mutex
	var acknowledged []time.Time
	var end atomic.Int64
	// Since when a put has been sent and acknowledged after the end.
	var goesOn atomic.Bool
	stop := make(chan struct{})
	var running sync.WaitGroup
	for number, m := range c.members {
		if m == leader {
			continue
		}
		client := connect(m.endpoint)
		defer client.Close()
		put := func(n int) {
			defer running.Done()
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			sent := time.Now()
			if _, err := client.Put(ctx, fmt.Sprintf("gap-%d-%d", number, n%1000), strings.Repeat("v", 256)); err != nil {
				return
			}
			at := time.Now()
			lock.Lock()
			acknowledged = append(acknowledged, at)
			lock.Unlock()
			if ended := end.Load(); ended != 0 && sent.UnixNano() > ended {
				goesOn.Store(true)
			}
		}
		running.Add(1)
		go func() {
			defer running.Done()
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-tick.C:
					running.Add(1)
					go put(n)
				}
			}
		}()
	}
	time.Sleep(time.Second)
	began := time.Now()
	leader.end(syscall.SIGKILL)
	end.Store(time.Now().UnixNano())
	for until := began.Add(peers.Patience); !goesOn.Load(); time.Sleep(pace) {
		if time.Now().After(until) {
			log.Fatal(c.name, ": no put was acknowledged after the leader's end")
		}
	}
	time.Sleep(300 * time.Millisecond)
	close(stop)
	running.Wait()
	c.launch(leader)
	leader.healthy()
	sort.Slice(acknowledged, func(i, j int) bool { return acknowledged[i].Before(acknowledged[j]) })
	gap := time.Duration(0)
	for i := 1; i < len(acknowledged); i++ {
		// A pause before the end is none of the election's.
		if acknowledged[i].After(began) {
			gap = max(gap, acknowledged[i].Sub(acknowledged[i-1]))
		}
	}
	return figures{"s without an acknowledged put": gap.Seconds()}
}
