package cluster

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"aistack/e2e/peers/etcd/peers"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func none(t *testing.T) *growing {
	return &growing{
		binary: peers.Binary(t, "PEER_TINYKV", "../../../../target/release/tinykv"), dir: t.TempDir(),
		running: map[uint64]*member{},
	}
}

func holds(t *testing.T, m *member, expected string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	response, err := m.direct.Get(ctx, "k/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	if said := fmt.Sprintf("%d keys at revision %d", response.Count, response.Header.Revision); said != expected {
		t.Fatalf("%s has %s, expected %s", m.name, said, expected)
	}
}

// Two of three lose their disks. The one that is left goes on alone by --force-new-cluster, with all that it had, and new
// members join it.
func TestOneThatIsLeftOfThreeGoesOnAlone(t *testing.T) {
	g := none(t)
	first := g.member(t)
	g.start(t, first, "new", initial(nil, first))
	answers(t, first)
	g.running[0] = first
	own := g.list(t)[0].ID
	delete(g.running, 0)
	g.running[own] = first
	g.grow(t, false)
	g.grow(t, false)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	// More than one snapshot, and a log behind the last.
	for i := range 1200 {
		if _, err := first.direct.Put(ctx, fmt.Sprintf("k/%d", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	holds(t, first, "1200 keys at revision 1201")
	for id, m := range g.running {
		if id != own {
			_ = m.cmd.Process.Kill()
			_ = m.cmd.Wait()
			delete(g.running, id)
			if err := os.RemoveAll(m.dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	// In good order: a leader that is killed may lack on its own disk what the two others had acknowledged.
	_ = first.cmd.Process.Signal(os.Interrupt)
	_ = first.cmd.Wait()
	for round, more := range [][]string{{"--force-new-cluster"}, {"--force-new-cluster"}, {}} {
		g.startWith(t, first, more...)
		answers(t, first)
		holds(t, first, fmt.Sprintf("%d keys at revision %d", 1200+round, 1201+round))
		if list := g.list(t); len(list) != 1 || list[0].ID != own {
			t.Fatalf("round %d: the members are %v", round, list)
		}
		if _, err := first.direct.Put(ctx, fmt.Sprintf("k/after-%d", round), "v"); err != nil {
			t.Fatal(err)
		}
		if round < 2 {
			_ = first.cmd.Process.Kill()
			_ = first.cmd.Wait()
		}
	}
	g.grow(t, false)
	g.grow(t, true)
	for _, m := range g.running {
		holds(t, m, "1203 keys at revision 1204")
	}
}

// Three members find one another in another cluster's registry; a fourth is told that they are complete.
func TestMembersFindOneAnotherByDiscovery(t *testing.T) {
	registry := peers.Tinykv(t)
	g := none(t)
	by := []string{"--discovery-token=kv", "--discovery-endpoints=" + registry.Endpoint}
	early := g.member(t)
	g.startWith(t, early, by...)
	if err := early.cmd.Wait(); err == nil {
		t.Fatal("nobody has said how many members there will be")
	}
	early.cmd = nil
	if text, _ := os.ReadFile(early.log); !strings.Contains(string(text), "etcdctl put /_etcd/registry/kv/_config/size") {
		t.Fatalf("it said:\n%s", text)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if _, err := registry.Client.Put(ctx, "/_etcd/registry/kv/_config/size", "3"); err != nil {
		t.Fatal(err)
	}
	for nth := range 3 {
		m := g.member(t)
		g.startWith(t, m, by...)
		g.running[uint64(nth)] = m
	}
	for _, m := range g.running {
		answers(t, m)
	}
	if list := g.list(t); len(list) != 3 {
		t.Fatalf("the members are %v", list)
	}
	one := g.running[0]
	if _, err := one.direct.Put(ctx, "k/0", "v"); err != nil {
		t.Fatal(err)
	}
	for _, m := range g.running {
		holds(t, m, "1 keys at revision 2")
	}
	fourth := g.member(t)
	g.startWith(t, fourth, by...)
	if err := fourth.cmd.Wait(); err == nil {
		t.Fatal("the cluster had all its members")
	}
	fourth.cmd = nil
	if text, _ := os.ReadFile(fourth.log); !strings.Contains(string(text), "has 3 members already") {
		t.Fatalf("it said:\n%s", text)
	}
	// One that starts again asks nobody.
	_ = one.cmd.Process.Kill()
	_ = one.cmd.Wait()
	registry.Kill(t)
	g.startWith(t, one, by...)
	answers(t, one)
	holds(t, one, "1 keys at revision 2")
}
