package faults

import (
	"context"
	"testing"

	"aistack/e2e/peers/etcd/peers"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const ahead = 20_000

// Renewals that fill a stream's window of 1 MiB, near enough.
const window = 60_000

// A client sends thousands of requests on one stream before it has an answer to the first: each is answered, on a connection that
// others share.
func TestWatchersAreCreatedFasterThanTheyAreAnswered(t *testing.T) {
	server := peers.Tinykv(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*peers.Patience)
	defer cancel()
	stream, err := etcdserverpb.NewWatchClient(server.Client.ActiveConnection()).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		for range ahead {
			create := &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: &etcdserverpb.WatchCreateRequest{Key: []byte("w")}}
			if err := stream.Send(&etcdserverpb.WatchRequest{RequestUnion: create}); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for count := range ahead {
		answer, err := stream.Recv()
		if err != nil || !answer.Created || answer.WatchId != int64(count) {
			t.Fatalf("after %d watchers: %v, %v", count, answer, err)
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if _, err := put(server, "w", "all of them hear of it"); err != nil {
		t.Fatal(err)
	}
	heard := map[int64]bool{}
	for len(heard) < ahead {
		answer, err := stream.Recv()
		if err != nil {
			t.Fatalf("%d heard of it: %v", len(heard), err)
		}
		if len(answer.Events) != 1 || heard[answer.WatchId] {
			t.Fatalf("watcher %d got %v", answer.WatchId, answer.Events)
		}
		heard[answer.WatchId] = true
	}
}

func TestLeasesAreKeptAliveFasterThanThatIsAnswered(t *testing.T) {
	server := peers.Tinykv(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*peers.Patience)
	defer cancel()
	lease, err := server.Client.Grant(ctx, 600)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := etcdserverpb.NewLeaseClient(server.Client.ActiveConnection()).LeaseKeepAlive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		for range window {
			if err := stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: int64(lease.ID)}); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for count := range window {
		answer, err := stream.Recv()
		if err != nil || clientv3.LeaseID(answer.ID) != lease.ID || answer.TTL == 0 {
			t.Fatalf("after %d: %v, %v", count, answer, err)
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}
