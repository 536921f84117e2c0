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

// load writes until the server is gone.
func load(t *testing.T, server *peers.Server, ledger *peers.Ledger, round, writer int) {
	for count := 0; ; count++ {
		key, value := fmt.Sprintf("w%d/%d", writer, count%20), fmt.Sprintf("%d-%d-%d", round, writer, count)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		var revision int64
		var err error
		if count%3 == 0 {
			var response *clientv3.TxnResponse
			if response, err = server.Client.Txn(ctx).Then(clientv3.OpPut(key, value)).Commit(); err == nil {
				revision = response.Header.Revision
			}
		} else {
			var response *clientv3.PutResponse
			if response, err = server.Client.Put(ctx, key, value); err == nil {
				revision = response.Header.Revision
			}
		}
		cancel()
		if err != nil {
			return
		}
		ledger.Note(t, revision, key, value)
	}
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
	ledger := peers.NewLedger()
	for round := range rounds {
		var running sync.WaitGroup
		for writer := range writers {
			running.Go(func() { load(t, server, ledger, round, writer) })
		}
		// The machine may be slow to the first acknowledgement; the moment of the kill is counted from there.
		ledger.More(t)
		time.Sleep(time.Duration(random.Intn(450)) * time.Millisecond)
		server.Kill(t)
		running.Wait()
		server.Start(t)
		ledger.Compare(t, map[string]*clientv3.Client{server.Name: server.Client})
		// Now and then the past is compacted, so that purging and sweeping meet the kills, too.
		if round%10 == 9 {
			if _, err := server.Client.Compact(context.Background(), ledger.Compared()); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d acknowledged writes over %d kills, all there; revision %d", ledger.Count(), rounds, ledger.Compared())
}
