// Package cluster runs three members of tinykv on this machine, kills and hands over their leader
// under load, and holds them to their word: what any of them acknowledged is there, once, on each.
package cluster

import (
	"context"
	"fmt"
	"math/rand"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"aistack/e2e/peers/etcd/peers"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

type member struct {
	name, client, peer, dir, log string
	cmd                          *exec.Cmd
	direct                       *clientv3.Client
}

type trio struct {
	binary  string
	initial string
	members []*member
	client  *clientv3.Client
}

func port(t *testing.T) int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func connect(t *testing.T, endpoints ...string) *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func three(t *testing.T) *trio {
	binary, dir := peers.Binary(t, "PEER_TINYKV", "../../../../target/release/tinykv"), t.TempDir()
	cluster := &trio{binary: binary}
	var initial, endpoints []string
	for i := range 3 {
		m := &member{
			name: fmt.Sprintf("m%d", i), client: fmt.Sprintf("127.0.0.1:%d", port(t)), peer: fmt.Sprintf("127.0.0.1:%d", port(t)),
			dir: filepath.Join(dir, fmt.Sprintf("m%d", i)), log: filepath.Join(dir, fmt.Sprintf("m%d.log", i)),
		}
		cluster.members = append(cluster.members, m)
		initial = append(initial, m.name+"=http://"+m.peer)
		endpoints = append(endpoints, m.client)
		m.direct = connect(t, m.client)
	}
	cluster.initial = strings.Join(initial, ",")
	cluster.client = connect(t, endpoints...)
	for _, m := range cluster.members {
		cluster.start(t, m)
	}
	t.Cleanup(func() {
		for _, m := range cluster.members {
			_ = m.cmd.Process.Kill()
			_ = m.cmd.Wait()
			if t.Failed() {
				text, _ := os.ReadFile(m.log)
				t.Logf("%s said:\n%s", m.name, text[max(0, len(text)-3000):])
			}
		}
	})
	for _, m := range cluster.members {
		answers(t, m)
	}
	return cluster
}

func (c *trio) start(t *testing.T, m *member) {
	output, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	m.cmd = exec.Command(c.binary, "--name", m.name, "--data-dir", m.dir, "--listen-client-urls", "http://"+m.client,
		"--listen-peer-urls", "http://"+m.peer, "--initial-cluster", c.initial, "--admin-listen", "127.0.0.1:0",
		"--set", "raft.snapshot_entries=2000", "--set", "raft.segment_bytes=6291456")
	m.cmd.Stdout, m.cmd.Stderr = output, output
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

func (c *trio) kill(m *member) {
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
}

func answers(t *testing.T, m *member) {
	deadline := time.Now().Add(5 * time.Minute)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		_, err := m.direct.Get(ctx, "is-it-there")
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not answer: %v", m.name, err)
		}
	}
}

func (c *trio) leader() *member {
	for _, m := range c.members {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		status, err := m.direct.Status(ctx, m.client)
		cancel()
		if err == nil && status.Leader == status.Header.MemberId {
			return m
		}
	}
	return nil
}

// same waits until all members hash alike.
func (c *trio) same(t *testing.T) {
	deadline := time.Now().Add(5 * time.Minute)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		var hashes []string
		for _, m := range c.members {
			if response, err := m.direct.HashKV(ctx, m.client, 0); err == nil {
				hashes = append(hashes, fmt.Sprintf("%08x at %d", response.Hash, response.Header.Revision))
			}
		}
		cancel()
		if len(hashes) == 3 && hashes[0] == hashes[1] && hashes[1] == hashes[2] {
			t.Logf("every member hashes %s", hashes[0])
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the members differ: %v", hashes)
		}
	}
}

type promise struct{ key, value string }

func TestNothingAcknowledgedIsLostWhileLeadersAreKilled(t *testing.T) {
	rounds := 8
	if value, err := strconv.Atoi(os.Getenv("TINYKV_KILL_ROUNDS")); err == nil {
		rounds = value
	}
	seed := time.Now().UnixNano()
	t.Logf("%d rounds, seed %d", rounds, seed)
	random := rand.New(rand.NewSource(seed))
	cluster := three(t)
	var lock sync.Mutex
	promised := map[int64]promise{}
	stop := make(chan struct{})
	var running sync.WaitGroup
	for writer := range 6 {
		running.Add(1)
		go func() {
			defer running.Done()
			client := cluster.client
			if writer < 3 {
				client = cluster.members[writer].direct
			}
			for count := 0; ; count++ {
				select {
				case <-stop:
					return
				default:
				}
				p := promise{fmt.Sprintf("w%d/%d", writer, count%50), fmt.Sprintf("%d-%d", writer, count)}
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
				response, err := client.Put(ctx, p.key, p.value)
				cancel()
				if err != nil {
					continue
				}
				lock.Lock()
				if before, taken := promised[response.Header.Revision]; taken {
					t.Errorf("revision %d was promised to %v and again to %v", response.Header.Revision, before, p)
				}
				promised[response.Header.Revision] = p
				lock.Unlock()
			}
		}()
	}
	for round := range rounds {
		time.Sleep(time.Duration(500+random.Intn(1500)) * time.Millisecond)
		victim := cluster.leader()
		if victim == nil || round%4 == 3 {
			victim = cluster.members[random.Intn(3)]
		}
		cluster.kill(victim)
		time.Sleep(time.Duration(random.Intn(3000)) * time.Millisecond)
		cluster.start(t, victim)
		answers(t, victim)
	}
	close(stop)
	running.Wait()
	cluster.same(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	now, err := cluster.client.Get(ctx, "w", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range cluster.members {
		kept, next := 0, int64(2)
		for response := range m.direct.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(2)) {
			if err := response.Err(); err != nil {
				t.Fatal(err)
			}
			for _, event := range response.Events {
				if event.Kv.ModRevision != next {
					t.Fatalf("%s: the event after revision %d is of revision %d", m.name, next-1, event.Kv.ModRevision)
				}
				if p, ok := promised[next]; ok {
					if p.key != string(event.Kv.Key) || p.value != string(event.Kv.Value) {
						t.Fatalf("%s: revision %d was promised to %v and holds %s=%s", m.name, next, p, event.Kv.Key, event.Kv.Value)
					}
					kept++
				}
				next++
			}
			if next > now.Header.Revision {
				break
			}
		}
		if kept != len(promised) {
			t.Fatalf("%s: of %d writes promised, %d are there", m.name, len(promised), kept)
		}
	}
	t.Logf("%d acknowledged writes over %d kills, on every member; revision %d", len(promised), rounds, now.Header.Revision)
}

// shortLease puts a key under a lease of three seconds; answers the lease and the key's revision.
func shortLease(ctx context.Context, t *testing.T, m *member) (clientv3.LeaseID, int64) {
	for {
		lease, err := m.direct.Grant(ctx, 3)
		if err != nil {
			t.Fatal(err)
		}
		put, err := m.direct.Put(ctx, "short", "x", clientv3.WithLease(lease.ID))
		if err == nil {
			return lease.ID, put.Header.Revision
		}
		// On a machine that stalls it may have ended already.
		if !strings.Contains(err.Error(), "lease not found") {
			t.Fatal(err)
		}
	}
}

func TestMembersLeasesAndTheLeadershipThroughAnyMember(t *testing.T) {
	cluster := three(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for _, m := range cluster.members {
		list, err := m.direct.MemberList(ctx)
		if err != nil || len(list.Members) != 3 {
			t.Fatalf("%s: %v, %v", m.name, list, err)
		}
		put, err := m.direct.Put(ctx, "by", m.name)
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range cluster.members {
			got, err := other.direct.Get(ctx, "by")
			if err != nil || string(got.Kvs[0].Value) != m.name || got.Kvs[0].ModRevision != put.Header.Revision {
				t.Fatalf("%s wrote; %s reads %v, %v", m.name, other.name, got, err)
			}
		}
	}
	leader := cluster.leader()
	var follower *member
	for _, m := range cluster.members {
		if m != leader {
			follower = m
		}
	}
	// One that must outlive what follows, however slow the machine is, and one that ends, at the latest under the next leader.
	lease, err := follower.direct.Grant(ctx, 600)
	if err != nil {
		t.Fatal(err)
	}
	short, ending := shortLease(ctx, t, follower)
	if _, err := follower.direct.Put(ctx, "leased", "x", clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	alive, err := follower.direct.KeepAliveOnce(ctx, lease.ID)
	if err != nil || alive.TTL != 600 {
		t.Fatalf("%v, %v", alive, err)
	}
	status, err := follower.direct.Status(ctx, follower.client)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leader.direct.MoveLeader(ctx, status.Header.MemberId); err != nil {
		t.Fatal(err)
	}
	if now := cluster.leader(); now != follower {
		t.Fatalf("handed over to %s, %v leads", follower.name, now)
	}
	if _, err := leader.direct.MoveLeader(ctx, status.Header.MemberId); err == nil || !strings.Contains(err.Error(), "not leader") {
		t.Fatalf("a follower handed over: %v", err)
	}
	left, err := leader.direct.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	if err != nil || left.TTL < 0 || len(left.Keys) != 1 {
		t.Fatalf("%v, %v", left, err)
	}
	events := leader.direct.Watch(ctx, "short", clientv3.WithRev(ending+1))
	ended := <-events
	if ended.Err() != nil || len(ended.Events) != 1 || ended.Events[0].Type != clientv3.EventTypeDelete {
		t.Fatalf("%v", ended)
	}
	if after, err := leader.direct.TimeToLive(ctx, short); err != nil || after.TTL != -1 {
		t.Fatalf("%v, %v", after, err)
	}
	cluster.same(t)
}
