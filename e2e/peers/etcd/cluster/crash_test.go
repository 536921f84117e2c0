package cluster

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"aistack/e2e/peers/etcd/peers"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// write puts and deletes keys of its own through one client, whoever is dead, until it is stopped.
func write(t *testing.T, ledger *peers.Ledger, client *clientv3.Client, writer, part int, stop chan struct{}) {
	for count := 0; ; count++ {
		select {
		case <-stop:
			return
		default:
		}
		key, value := fmt.Sprintf("w%d/%d", writer, count%40), fmt.Sprintf("%d-%d-%d", part, writer, count)
		// Long enough for an election; what it costs when a request is lost with a member.
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		switch count % 5 {
		case 0:
			if response, err := client.Txn(ctx).Then(clientv3.OpPut(key, value)).Commit(); err == nil {
				ledger.Note(t, response.Header.Revision, key, value)
			}
		case 1:
			key = fmt.Sprintf("w%d/%d", writer, (count+20)%40)
			if response, err := client.Delete(ctx, key); err == nil && response.Deleted > 0 {
				ledger.Note(t, response.Header.Revision, key, "")
			}
		default:
			if response, err := client.Put(ctx, key, value); err == nil {
				ledger.Note(t, response.Header.Revision, key, value)
			}
		}
		cancel()
	}
}

// impatient is a client that looks every few milliseconds whether a dead member is there again.
func impatient(t *testing.T, endpoints ...string) *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, DialTimeout: peers.Patience, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.2, MaxDelay: 100 * time.Millisecond},
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// victims are a member, two, or all of them.
func victims(random *rand.Rand, members []*member) []*member {
	shuffled := append([]*member{}, members...)
	random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	return shuffled[:[]int{1, 1, 1, 1, 1, 1, 2, 3, 3, 3}[random.Intn(10)]]
}

// Members are killed at random moments, alone and together, some of them again while they recover; TINYKV_CLUSTER_ROUNDS times.
func TestNothingAcknowledgedIsLostWhoeverIsKilledWhenever(t *testing.T) {
	rounds, seed := 20, time.Now().UnixNano()
	if value, err := strconv.Atoi(os.Getenv("TINYKV_CLUSTER_ROUNDS")); err == nil {
		rounds = value
	}
	if value, err := strconv.ParseInt(os.Getenv("TINYKV_KILL_SEED"), 10, 64); err == nil {
		seed = value
	}
	t.Logf("%d rounds, seed %d", rounds, seed)
	random := rand.New(rand.NewSource(seed))
	// Elections are quick, so that rounds are.
	cluster := founded(t, nil, func(c *trio) { c.more = []string{"--heartbeat-interval", "30", "--election-timeout", "300"} })
	var clients []*clientv3.Client
	var all []string
	for _, m := range cluster.members {
		clients, all = append(clients, impatient(t, m.client)), append(all, m.client)
	}
	clients = append(clients, impatient(t, all...), impatient(t, all...))
	ledger := peers.NewLedger()
	started, kills := time.Now(), 0
	for done := 0; done < rounds; {
		stop, running := make(chan struct{}), sync.WaitGroup{}
		for writer, client := range clients {
			running.Go(func() { write(t, ledger, client, writer, done, stop) })
		}
		for end := min(done+50, rounds); done < end; done++ {
			ledger.More(t)
			time.Sleep(time.Duration(random.Intn(200)) * time.Millisecond)
			chosen := victims(random, cluster.members)
			for again := true; again; again = random.Intn(5) == 0 {
				for _, m := range chosen {
					_ = m.cmd.Process.Kill()
				}
				for _, m := range chosen {
					_ = m.cmd.Wait()
					cluster.start(t, m)
				}
				kills += len(chosen)
				time.Sleep(time.Duration(random.Intn(60)) * time.Millisecond)
			}
		}
		close(stop)
		running.Wait()
		cluster.same(t)
		ledger.Compare(t, cluster.direct())
		// The past is compacted now and then, so that purging and sweeping meet the kills, too.
		if random.Intn(2) == 0 {
			ctx, cancel := context.WithTimeout(context.Background(), peers.Patience)
			if _, err := cluster.client.Compact(ctx, ledger.Compared()); err != nil {
				t.Fatal(err)
			}
			cancel()
		}
		t.Logf("round %d after %s: %d kills, %d acknowledged writes", done, time.Since(started).Round(time.Second), kills, ledger.Count())
	}
	t.Logf("figures: %d rounds, %d kills, %d acknowledged writes, all on every member", rounds, kills, ledger.Count())
}
