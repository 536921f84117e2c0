package peers

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Ledger holds what a store acknowledged, to hold it to its word: each write is there, at the revision that was named, and no
// revision is given twice. All keys begin with "w", and nobody else writes.
type Ledger struct {
	lock     sync.Mutex
	promised map[int64]promise
	// compared is the last revision that the store was held to: a promise that is not above it is given twice.
	compared int64
	count    atomic.Int64
	progress chan struct{}
}

// promise is a write that was acknowledged; a deletion has no value.
type promise struct{ key, value string }

// NewLedger is the ledger of a store that is empty.
func NewLedger() *Ledger {
	return &Ledger{promised: map[int64]promise{}, compared: 1, progress: make(chan struct{}, 1)}
}

// Note takes down that a write was acknowledged at a revision.
func (l *Ledger) Note(t *testing.T, revision int64, key, value string) {
	l.lock.Lock()
	if before, taken := l.promised[revision]; taken || revision <= l.compared {
		t.Errorf("revision %d was promised to %v, and again to %s=%s; %d were compared", revision, before, key, value, l.compared)
	}
	l.promised[revision] = promise{key, value}
	l.lock.Unlock()
	l.count.Add(1)
	select {
	case l.progress <- struct{}{}:
	default:
	}
}

// Count is how many writes were acknowledged.
func (l *Ledger) Count() int64 { return l.count.Load() }

// Compared is the revision that the store was held to last.
func (l *Ledger) Compared() int64 { return l.compared }

// More waits until something is acknowledged from now on.
func (l *Ledger) More(t *testing.T) {
	before, deadline := l.Count(), time.After(Patience)
	for l.Count() == before {
		select {
		case <-l.progress:
		case <-deadline:
			t.Fatal("nothing is acknowledged any more")
		}
	}
}

// Put puts keys of a writer's own until it is stopped, whatever fails; each by the client that is at hand then.
func (l *Ledger) Put(t *testing.T, writer int, patience time.Duration, stop chan struct{}, client func() *clientv3.Client) {
	for count := 0; ; count++ {
		select {
		case <-stop:
			return
		default:
		}
		key, value := fmt.Sprintf("w%d/%d", writer, count%50), fmt.Sprintf("%d-%d", writer, count)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if response, err := client().Put(ctx, key, value); err == nil {
			l.Note(t, response.Header.Revision, key, value)
		}
		cancel()
	}
}

// Compare holds every member, each asked by a client of its own, to what was promised since the last comparison, and forgets it.
// Nobody writes meanwhile.
func (l *Ledger) Compare(t *testing.T, members map[string]*clientv3.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*Patience)
	defer cancel()
	if l.Count() == 0 {
		t.Fatal("nothing was acknowledged, so nothing was tested")
	}
	last := l.compared
	for name, client := range members {
		now, err := client.Get(ctx, "w", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		last = max(last, now.Header.Revision)
	}
	for revision, p := range l.promised {
		if revision > last {
			t.Fatalf("revision %d was promised to %v, the store is at %d", revision, p, last)
		}
	}
	for name, client := range members {
		l.replay(ctx, t, name, client, last)
	}
	l.compared, l.promised = last, map[int64]promise{}
}

// replay compares a member's history, revision by revision.
func (l *Ledger) replay(ctx context.Context, t *testing.T, name string, client *clientv3.Client, last int64) {
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	kept, next := 0, l.compared+1
	events := client.Watch(watching, "", clientv3.WithPrefix(), clientv3.WithRev(next))
	for next <= last {
		response, ok := <-events
		if !ok || response.Err() != nil {
			t.Fatalf("%s: events from %d on: %v", name, next, response.Err())
		}
		for _, event := range response.Events {
			if event.Kv.ModRevision != next {
				t.Fatalf("%s: the event after revision %d is of revision %d", name, next-1, event.Kv.ModRevision)
			}
			if p, ok := l.promised[next]; ok {
				if p.key != string(event.Kv.Key) || p.value != string(event.Kv.Value) {
					t.Fatalf("%s: revision %d was promised to %v and holds %s=%s", name, next, p, event.Kv.Key, event.Kv.Value)
				}
				kept++
			}
			next++
		}
	}
	if kept != len(l.promised) {
		t.Fatalf("%s: of %d writes promised after revision %d, %d are there", name, len(l.promised), l.compared, kept)
	}
}
