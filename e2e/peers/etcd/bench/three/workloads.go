package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"aistack/e2e/peers/etcd/peers"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func background() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), peers.Patience)
}

func workloads() []workload {
	number := func(name string, n int) string { return name + "=" + strconv.Itoa(n) }
	thousand := []string{"--conns=100", "--clients=1000"}
	ranged := func(consistency string) func(b *bench, c *cluster) figures {
		return func(b *bench, c *cluster) figures {
			n := b.of(100_000)
			return b.tooled(c, n, append(thousand, "range", "foo", "--consistency="+consistency, number("--total", n))...)
		}
	}
	foo := func(_ *bench, c *cluster) {
		ctx, cancel := background()
		defer cancel()
		if _, err := c.client.Put(ctx, "foo", strings.Repeat("v", 256)); err != nil {
			log.Fatal(err)
		}
	}
	return []workload{
		{id: "B1", what: "put, 1000 clients on 100 connections to all members, 100,000 keys of 8 bytes in turn, value 256", run: func(b *bench, c *cluster) figures {
			n := b.of(100_000)
			return b.tooled(c, n, append(thousand, "put", "--key-size=8", "--val-size=256", "--sequential-keys", "--key-space-size=100000", number("--total", n))...)
		}},
		{id: "B2", what: "put, 1 client at the leader, key 8, value 256", run: func(b *bench, c *cluster) figures {
			n := b.of(5_000)
			return b.tooled(c, n, "--conns=1", "--clients=1", "--target-leader", "put", "--key-size=8", "--val-size=256", "--sequential-keys", "--key-space-size=100000", number("--total", n))
		}},
		{id: "B3", what: "linearizable range of one key, 1000 clients on 100 connections to all members", prepare: foo, run: ranged("l")},
		{id: "B3", what: "serializable range of one key, 1000 clients on 100 connections to all members", prepare: foo, run: ranged("s")},
		{id: "B4", what: "txn of one put, 100 clients on 100 connections to all members, value 256", run: func(b *bench, c *cluster) figures {
			n := b.of(50_000)
			return b.tooled(c, n, "--conns=100", "--clients=100", "txn-put", "--key-size=8", "--val-size=256", "--key-space-size=100000", number("--total", n))
		}},
		{id: "B5", what: "watch, 100 streams of 100 watchers of one key, 10 connections, 200 puts", run: func(b *bench, c *cluster) figures {
			puts := b.of(200)
			found := b.tooled(c, puts*10_000, "--conns=10", "--clients=10", "watch", "--streams=100", "--watch-per-stream=100", number("--put-total", puts))
			// Latencies of a channel that has an event already mean nothing.
			return figures{"events/s": found["/s"], "us server CPU/event": found["us server CPU"]}
		}},
		{id: "B7", what: "lease keep-alive, 1000 clients on 100 connections to all members", run: func(b *bench, c *cluster) figures {
			n := b.of(100_000)
			return b.tooled(c, n, append(thousand, "lease-keepalive", number("--total", n))...)
		}},
		{id: "B8", what: "1,000,000 keys of 32 bytes, values of 256", alone: true, prepare: million, run: memoryAndRestart},
		{id: "B6", what: "page of 500 out of 1,000,000 keys with its total, at one revision, while another client puts new keys", alone: true, goesOn: true, prepare: million, run: pages},
		{id: "B9", what: "500 puts/s in 50 clients, before and while 1,000,000 revisions of 10,000 keys are compacted", alone: true, prepare: revisions, run: compaction},
		{id: "B10", what: "kill -9 of the leader while a put comes to each of the others every 5 ms; heartbeats 100 ms, elections 1000 ms", repeats: 11, run: killed},
	}
}

// fill puts keys by etcd's load generator.
func fill(b *bench, c *cluster, total, keys int) {
	began := time.Now()
	text, err := exec.Command(b.tool, "--endpoints="+strings.Join(c.endpoints(), ","), "--conns=50", "--clients=500", "put", "--key-size=32",
		"--val-size=256", "--sequential-keys", fmt.Sprintf("--key-space-size=%d", keys), fmt.Sprintf("--total=%d", total)).CombinedOutput()
	if err != nil || strings.Contains(string(text), "Error distribution") {
		log.Fatalf("%s: %v\n%s", c.name, err, text)
	}
	fmt.Fprintf(os.Stderr, "   %-6s %5.1fs  filled with %d puts of %d keys\n", c.name, time.Since(began).Seconds(), total, keys)
}

func million(b *bench, c *cluster) { fill(b, c, b.of(1_000_000), b.of(1_000_000)) }

func revisions(b *bench, c *cluster) { fill(b, c, b.of(1_000_000), b.of(10_000)) }

func memoryAndRestart(_ *bench, c *cluster) figures {
	c.settled()
	found := figures{"MB resident, median member": c.memory()}
	for unit, signal := range map[string]syscall.Signal{"s restart to healthy": syscall.SIGTERM, "s kill -9 to healthy": syscall.SIGKILL} {
		var seconds []float64
		for range 3 {
			m := c.follower()
			m.end(signal)
			began := time.Now()
			c.launch(m)
			m.healthy()
			seconds = append(seconds, time.Since(began).Seconds())
		}
		found[unit] = median(seconds)
	}
	return found
}

// pages lists keys page by page, as Kubernetes does.
func pages(b *bench, c *cluster) figures {
	c.settled()
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Add(1)
	go func() {
		defer writer.Done()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-tick.C:
				ctx, cancel := background()
				if _, err := c.client.Put(ctx, fmt.Sprintf("\x7fnew-%d", n), "v"); err != nil {
					log.Fatal(err)
				}
				cancel()
			}
		}
	}()
	began, before := time.Now(), c.cpu()
	time.Sleep(5 * time.Second)
	// What the writer costs is not the pages'.
	idle := (c.cpu() - before) / time.Since(began).Seconds()
	began, before = time.Now(), c.cpu()
	var latencies []float64
	count := 0
	for len(latencies) < b.of(300) {
		key, revision := "\x00", int64(0)
		for more := true; more && len(latencies) < b.of(300); {
			ctx, cancel := background()
			at := time.Now()
			options := []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithLimit(500)}
			if revision != 0 {
				options = append(options, clientv3.WithRev(revision))
			}
			page, err := c.client.Get(ctx, key, options...)
			cancel()
			if err != nil {
				log.Fatal(err)
			}
			latencies = append(latencies, time.Since(at).Seconds()*1e3)
			count += len(page.Kvs)
			if revision == 0 {
				revision = page.Header.Revision
			}
			more = page.More
			key = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
		}
	}
	elapsed, spent := time.Since(began).Seconds(), c.cpu()-before
	close(stop)
	writer.Wait()
	sort.Float64s(latencies)
	return figures{
		"us server CPU/page": (spent - idle*elapsed) / float64(len(latencies)) * 1e6,
		"ms p50/page":        latencies[len(latencies)/2],
	}
}

// paced puts at a steady rate until told to stop; answers the latencies in milliseconds, sorted.
func paced(c *cluster, stop <-chan struct{}) []float64 {
	const clients, rate = 50, 500
	var lock sync.Mutex
	var latencies []float64
	var running sync.WaitGroup
	var number atomic.Int64
	for i := range clients {
		running.Add(1)
		go func() {
			defer running.Done()
			time.Sleep(time.Duration(i) * time.Second * clients / rate / clients)
			tick := time.NewTicker(time.Second * clients / rate)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case at := <-tick.C:
					ctx, cancel := background()
					_, err := c.client.Put(ctx, fmt.Sprintf("paced-%d", number.Add(1)%1000), strings.Repeat("v", 256))
					cancel()
					if err != nil {
						log.Fatal(err)
					}
					lock.Lock()
					latencies = append(latencies, time.Since(at).Seconds()*1e3)
					lock.Unlock()
				}
			}
		}()
	}
	running.Wait()
	sort.Float64s(latencies)
	return latencies
}

func compaction(_ *bench, c *cluster) figures {
	c.settled()
	measured := func(until func()) []float64 {
		stop, done := make(chan struct{}), make(chan []float64)
		go func() { done <- paced(c, stop) }()
		until()
		close(stop)
		return <-done
	}
	p99 := func(latencies []float64) float64 { return latencies[len(latencies)*99/100] }
	measured(func() { time.Sleep(2 * time.Second) })
	idle := measured(func() { time.Sleep(10 * time.Second) })
	ctx, cancel := background()
	defer cancel()
	last, err := c.client.Get(ctx, "paced-0")
	if err != nil {
		log.Fatal(err)
	}
	took, before := 0.0, c.cpu()
	busy := measured(func() {
		began := time.Now()
		if _, err := c.client.Compact(ctx, last.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
			log.Fatal(err)
		}
		took = time.Since(began).Seconds()
		time.Sleep(max(0, 5*time.Second-time.Since(began)))
	})
	return figures{
		"ms p99 put before":    p99(idle),
		"ms p99 put meanwhile": p99(busy),
		"times p99 before":     p99(busy) / p99(idle),
		"s compaction":         took,
		"s server CPU":         c.cpu() - before,
	}
}
