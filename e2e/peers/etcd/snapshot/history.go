// Package snapshot moves states between tinykv and etcd by snapshot files, with etcd's own tools, and compares what
// is there before and after: every key at every revision that is left, its events, leases, users and roles.
package snapshot

import (
	"context"
	"fmt"
	"math/rand"
	"reflect"
	"sort"
	"strings"
	"testing"

	"aistack/e2e/peers/etcd/peers"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/encoding/protojson"
)

func patient() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), peers.Patience)
}

func must[T any](value T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// live writes a history by chance: puts, deletions of ranges, transactions of several keys, leases, a compaction on the
// way if there is to be one; at last users and roles.
func live(t testing.TB, client *clientv3.Client, seed int64, compact bool) {
	ctx, cancel := patient()
	defer cancel()
	random := rand.New(rand.NewSource(seed))
	key := func() string { return fmt.Sprintf("k/%02d%s", random.Intn(40), strings.Repeat("\x00", random.Intn(3))) }
	value := func() string { return strings.Repeat(fmt.Sprint(random.Intn(10)), 1<<random.Intn(12)) }
	var leases []clientv3.LeaseID
	for range 3 {
		leases = append(leases, must(client.Grant(ctx, 100_000))(t).ID)
	}
	for step := range 400 {
		switch random.Intn(10) {
		case 0:
			must(client.Delete(ctx, key()))(t)
		case 1:
			from := key()
			must(client.Delete(ctx, from, clientv3.WithRange(from+"\x00\x01")))(t)
		case 2:
			var writes []clientv3.Op
			for _, number := range random.Perm(20)[:1+random.Intn(6)] {
				writes = append(writes, clientv3.OpPut(fmt.Sprintf("t/%d", number), value()))
			}
			must(client.Txn(ctx).Then(writes...).Commit())(t)
		case 3:
			must(client.Put(ctx, key(), value(), clientv3.WithLease(leases[random.Intn(len(leases))])))(t)
		default:
			must(client.Put(ctx, key(), value()))(t)
		}
		if compact && step == 250 {
			revision := must(client.Get(ctx, "k"))(t).Header.Revision
			must(client.Compact(ctx, revision-20, clientv3.WithCompactPhysical()))(t)
		}
	}
	must(client.Put(ctx, "large", strings.Repeat("x", 1<<20)))(t)
	must(client.Revoke(ctx, leases[0]))(t)
	if compact {
		// The latest revision is a deletion, and compacted.
		revision := must(client.Delete(ctx, "large"))(t).Header.Revision
		must(client.Compact(ctx, revision-5, clientv3.WithCompactPhysical()))(t)
	}
	must(client.RoleAdd(ctx, "reader"))(t)
	for _, prefix := range []string{"t/", "k/"} {
		must(client.RoleGrantPermission(ctx, "reader", prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermRead)))(t)
	}
	must(client.UserAdd(ctx, "ann", "pass"))(t)
	must(client.UserGrantRole(ctx, "ann", "reader"))(t)
	must(client.UserAddWithOptions(ctx, "bob", "", &clientv3.UserAddOptions{NoPassword: true}))(t)
	must(client.UserAdd(ctx, "root", "secret"))(t)
	must(client.UserGrantRole(ctx, "root", "root"))(t)
}

// state is what a client can learn of a server.
type state struct {
	Revision, Compacted int64
	Keys                map[int64][]string
	Events              []string
	Leases, Users       []string
}

func told(kv *mvccpb.KeyValue) string {
	return fmt.Sprintf("%q created %d modified %d version %d lease %x value %d:%.8s", kv.Key, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease, len(kv.Value), kv.Value)
}

// learn asks for everything; older revisions than compacted are gone.
func learn(t testing.TB, client *clientv3.Client) state {
	ctx, cancel := patient()
	defer cancel()
	s := state{Keys: map[int64][]string{}}
	s.Revision = must(client.Get(ctx, "x"))(t).Header.Revision
	for revision := s.Revision; revision > 0; revision-- {
		response, err := client.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(revision))
		if err != nil {
			if !strings.Contains(err.Error(), "has been compacted") {
				t.Fatal(err)
			}
			break
		}
		s.Compacted = revision
		for _, kv := range response.Kvs {
			s.Keys[revision] = append(s.Keys[revision], told(kv))
		}
	}
	// What this look itself writes is no part of the state; it tells where the events end.
	mark := must(client.Put(ctx, "mark", ""))(t).Header.Revision
	must(client.Delete(ctx, "mark"))(t)
	s.Events = events(ctx, t, client, s.Compacted, mark)
	for _, lease := range must(client.Leases(ctx))(t).Leases {
		about := must(client.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys()))(t)
		keys := []string{}
		for _, key := range about.Keys {
			keys = append(keys, fmt.Sprintf("%q", key))
		}
		sort.Strings(keys)
		s.Leases = append(s.Leases, fmt.Sprintf("%x granted for %d: %s", lease.ID, about.GrantedTTL, strings.Join(keys, " ")))
	}
	sort.Strings(s.Leases)
	for _, user := range must(client.UserList(ctx))(t).Users {
		s.Users = append(s.Users, fmt.Sprintf("user %s: %v", user, must(client.UserGet(ctx, user))(t).Roles))
	}
	for _, role := range must(client.RoleList(ctx))(t).Roles {
		for _, permission := range must(client.RoleGet(ctx, role))(t).Perm {
			s.Users = append(s.Users, fmt.Sprintf("role %s: %v", role, protojson.Format(permission)))
		}
	}
	guarded := must(client.AuthStatus(ctx))(t)
	s.Users = append(s.Users, fmt.Sprintf("users count: %v, revision %d", guarded.Enabled, guarded.AuthRevision))
	return s
}

// events are those of all keys from one revision on, and before another, at which there is one.
func events(ctx context.Context, t testing.TB, client *clientv3.Client, from, mark int64) (events []string) {
	watching, end := context.WithCancel(ctx)
	defer end()
	for response := range client.Watch(watching, "\x00", clientv3.WithFromKey(), clientv3.WithRev(from)) {
		if err := response.Err(); err != nil {
			t.Fatal(err)
		}
		for _, event := range response.Events {
			if event.Kv.ModRevision >= mark {
				return events
			}
			events = append(events, fmt.Sprintf("%s %s", event.Type, told(event.Kv)))
		}
	}
	t.Fatal("the watch ended early")
	return nil
}

// same compares two states, and says where they differ first.
func same(t testing.TB, what string, before, after state) {
	t.Helper()
	if before.Revision != after.Revision || before.Compacted != after.Compacted {
		t.Errorf("%s: revision %d, compacted at %d; before, %d and %d", what, after.Revision, after.Compacted, before.Revision, before.Compacted)
	}
	for revision := before.Compacted; revision <= before.Revision; revision++ {
		if !reflect.DeepEqual(before.Keys[revision], after.Keys[revision]) {
			t.Fatalf("%s: at revision %d\n  before %q\n  after  %q", what, revision, before.Keys[revision], after.Keys[revision])
		}
	}
	for _, part := range []struct{ before, after []string }{{before.Events, after.Events}, {before.Leases, after.Leases}, {before.Users, after.Users}} {
		if !reflect.DeepEqual(part.before, part.after) {
			t.Fatalf("%s:\n  before %q\n  after  %q", what, part.before, part.after)
		}
	}
	if len(before.Keys[before.Revision]) == 0 || len(before.Events) == 0 || len(before.Leases) == 0 {
		t.Fatalf("%s: there was nothing to compare", what)
	}
}
