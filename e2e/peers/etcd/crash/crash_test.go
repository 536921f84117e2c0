// Package crash kills tinykv under write load, again and again, and holds it to its word: what
// it acknowledged is there, at the revision that it named, and no revision is given twice.
package crash

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
)

const writers = 8

type write struct {
	key, value string
	revision   int64
}

// ledger is what writers were promised.
type ledger struct {
	sync.Mutex
	byRevision map[int64]write
}

func (l *ledger) promise(t *testing.T, w write) {
	l.Lock()
	defer l.Unlock()
	if before, taken := l.byRevision[w.revision]; taken {
		t.Errorf("revision %d was promised to %v and again to %v", w.revision, before, w)
	}
	l.byRevision[w.revision] = w
}

// load writes until the server is gone.
func load(t *testing.T, server *peers.Server, book *ledger, round, writer int) {
	for count := 0; ; count++ {
		w := write{key: fmt.Sprintf("w%d/%d", writer, count%20), value: fmt.Sprintf("%d-%d-%d", round, writer, count)}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		var err error
		if count%3 == 0 {
			var response *clientv3.TxnResponse
			response, err = server.Client.Txn(ctx).Then(clientv3.OpPut(w.key, w.value)).Commit()
			if err == nil {
				w.revision = response.Header.Revision
			}
		} else {
			var response *clientv3.PutResponse
			response, err = server.Client.Put(ctx, w.key, w.value)
			if err == nil {
				w.revision = response.Header.Revision
			}
		}
		cancel()
		if err != nil {
			return
		}
		book.promise(t, w)
	}
}

// verify replays all events after `from` and compares them with the ledger.
func verify(t *testing.T, server *peers.Server, book *ledger, from int64) (int64, int) {
	ctx, cancel := context.WithTimeout(context.Background(), peers.Patience)
	defer cancel()
	now, err := server.Client.Get(ctx, "w", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	last := now.Header.Revision
	promised := 0
	for revision := range book.byRevision {
		if revision > last {
			t.Fatalf("revision %d was promised, the store is at %d", revision, last)
		}
		if revision > from {
			promised++
		}
	}
	next, kept := from+1, 0
	events := server.Client.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(next))
	for next <= last {
		response, ok := <-events
		if !ok || response.Err() != nil {
			t.Fatalf("events from %d on: %v", next, response.Err())
		}
		for _, event := range response.Events {
			if event.Kv.ModRevision != next {
				t.Fatalf("the event after revision %d is of revision %d", next-1, event.Kv.ModRevision)
			}
			if w, promised := book.byRevision[next]; promised {
				if string(event.Kv.Key) != w.key || string(event.Kv.Value) != w.value {
					t.Fatalf("revision %d was promised to %v and holds %s=%s", next, w, event.Kv.Key, event.Kv.Value)
				}
				kept++
			}
			next++
		}
	}
	if kept != promised {
		t.Fatalf("of %d writes promised after revision %d, %d are there", promised, from, kept)
	}
	return last, kept
}

func TestNothingAcknowledgedIsLost(t *testing.T) {
	rounds := 20
	if value, err := strconv.Atoi(os.Getenv("TINYKV_KILL_ROUNDS")); err == nil {
		rounds = value
	}
	seed := time.Now().UnixNano()
	if value, err := strconv.ParseInt(os.Getenv("TINYKV_KILL_SEED"), 10, 64); err == nil {
		seed = value
	}
	t.Logf("%d rounds, seed %d", rounds, seed)
	random := rand.New(rand.NewSource(seed))
	server := peers.Tinykv(t, "--set", "raft.snapshot_entries=3000", "--set", "raft.segment_bytes=6291456")
	book := &ledger{byRevision: map[int64]write{}}
	verified, total := int64(1), 0
	for round := range rounds {
		var running sync.WaitGroup
		for writer := range writers {
			running.Add(1)
			go func() {
				defer running.Done()
				load(t, server, book, round, writer)
			}()
		}
		time.Sleep(time.Duration(50+random.Intn(450)) * time.Millisecond)
		server.Kill(t)
		running.Wait()
		server.Start(t)
		var kept int
		verified, kept = verify(t, server, book, verified)
		total += kept
		// Now and then the past is compacted, so that purging and sweeping meet the kills, too.
		if round%10 == 9 {
			if _, err := server.Client.Compact(context.Background(), verified); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d acknowledged writes over %d kills, all there; revision %d", total, rounds, verified)
}
