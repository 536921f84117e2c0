package cluster

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"aistack/e2e/peers/etcd/peers"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// book is the ledger: what was acknowledged, by revision; a deletion has no value.
type book struct {
	sync.Mutex
	promised map[int64]promise
	// above is the last revision that all members were compared up to: a promise that is not above it is given twice.
	above    int64
	count    atomic.Int64
	progress chan struct{}
}

func (b *book) note(t *testing.T, revision int64, p promise) {
	b.Lock()
	if before, taken := b.promised[revision]; taken || revision <= b.above {
		t.Errorf("revision %d was promised to %v, and again to %v; %d were compared", revision, before, p, b.above)
	}
	b.promised[revision] = p
	b.Unlock()
	b.count.Add(1)
	select {
	case b.progress <- struct{}{}:
	default:
	}
}

// more waits until something is acknowledged from now on.
func (b *book) more(t *testing.T) {
	before, deadline := b.count.Load(), time.After(peers.Patience)
	for b.count.Load() == before {
		select {
		case <-b.progress:
		case <-deadline:
			t.Fatal("nothing is acknowledged any more")
		}
	}
}

// write puts and deletes keys of its own through one client, whoever is dead, until it is stopped.
func (b *book) write(t *testing.T, client *clientv3.Client, writer, part int, stop chan struct{}) {
	for count := 0; ; count++ {
		select {
		case <-stop:
			return
		default:
		}
		p := promise{fmt.Sprintf("w%d/%d", writer, count%40), fmt.Sprintf("%d-%d-%d", part, writer, count)}
		// Long enough for an election; what it costs when a request is lost with a member.
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		switch count % 5 {
		case 0:
			if response, err := client.Txn(ctx).Then(clientv3.OpPut(p.key, p.value)).Commit(); err == nil {
				b.note(t, response.Header.Revision, p)
			}
		case 1:
			p.key, p.value = fmt.Sprintf("w%d/%d", writer, (count+20)%40), ""
			if response, err := client.Delete(ctx, p.key); err == nil && response.Deleted > 0 {
				b.note(t, response.Header.Revision, p)
			}
		default:
			if response, err := client.Put(ctx, p.key, p.value); err == nil {
				b.note(t, response.Header.Revision, p)
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

// compared holds every member to the ledger, from the revision after the last comparison, and forgets what was compared.
func (b *book) compared(t *testing.T, cluster *trio) {
	cluster.same(t)
	ctx, cancel := context.WithTimeout(context.Background(), peers.Patience)
	defer cancel()
	now, err := cluster.client.Get(ctx, "w", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	last := now.Header.Revision
	for revision, p := range b.promised {
		if revision > last {
			t.Fatalf("revision %d was promised to %v, the store is at %d", revision, p, last)
		}
	}
	for _, m := range cluster.members {
		if kept := keptAfter(ctx, t, m, b.promised, b.above, last); kept != len(b.promised) {
			t.Fatalf("%s: of %d writes promised after revision %d, %d are there", m.name, len(b.promised), b.above, kept)
		}
	}
	b.above, b.promised = last, map[int64]promise{}
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
	ledger := &book{promised: map[int64]promise{}, above: 1, progress: make(chan struct{}, 1)}
	started, kills := time.Now(), 0
	for done := 0; done < rounds; {
		stop, running := make(chan struct{}), sync.WaitGroup{}
		for writer, client := range clients {
			running.Add(1)
			go func() {
				defer running.Done()
				ledger.write(t, client, writer, done, stop)
			}()
		}
		for end := min(done+50, rounds); done < end; done++ {
			ledger.more(t)
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
		ledger.compared(t, cluster)
		// The past is compacted now and then, so that purging and sweeping meet the kills, too.
		if random.Intn(2) == 0 {
			ctx, cancel := context.WithTimeout(context.Background(), peers.Patience)
			if _, err := cluster.client.Compact(ctx, ledger.above); err != nil {
				t.Fatal(err)
			}
			cancel()
		}
		t.Logf("round %d after %s: %d kills, %d acknowledged writes", done, time.Since(started).Round(time.Second), kills, ledger.count.Load())
	}
	t.Logf("figures: %d rounds, %d kills, %d acknowledged writes, all on every member", rounds, kills, ledger.count.Load())
}
