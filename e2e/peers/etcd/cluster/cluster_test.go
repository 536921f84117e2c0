// Package cluster runs three members of tinykv on this machine, kills and hands over their leader
// under load, and holds them to their word: what any of them acknowledged is there, once, on each.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"aistack/e2e/peers/etcd/peers"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
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
	scheme  string
	tls     *peers.Authority
	members []*member
	client  *clientv3.Client
	more    []string // flags of every member besides
}

func port(t *testing.T) int {
	port, err := peers.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func connect(t *testing.T, endpoints ...string) *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: time.Minute, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func three(t *testing.T) *trio { return founded(t, nil, func(*trio) {}) }

// founded starts three members, which prove themselves to one another where there is an authority; before, something else
// may be done to them.
func founded(t *testing.T, tls *peers.Authority, prepare func(*trio)) *trio {
	binary, dir := peers.Binary(t, "PEER_TINYKV", "../../../../target/release/tinykv"), t.TempDir()
	cluster := &trio{binary: binary, tls: tls, scheme: "http://"}
	if tls != nil {
		cluster.scheme = "https://"
	}
	var initial, endpoints []string
	for i := range 3 {
		m := &member{
			name: fmt.Sprintf("m%d", i), client: fmt.Sprintf("127.0.0.1:%d", port(t)), peer: fmt.Sprintf("127.0.0.1:%d", port(t)),
			dir: filepath.Join(dir, fmt.Sprintf("m%d", i)), log: filepath.Join(dir, fmt.Sprintf("m%d.log", i)),
		}
		cluster.members = append(cluster.members, m)
		initial = append(initial, m.name+"="+cluster.scheme+m.peer)
		endpoints = append(endpoints, m.client)
		m.direct = connect(t, m.client)
	}
	cluster.initial = strings.Join(initial, ",")
	cluster.client = connect(t, endpoints...)
	prepare(cluster)
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
		"--listen-peer-urls", c.scheme+m.peer, "--initial-cluster", c.initial, "--admin-listen", "127.0.0.1:0",
		"--set", "raft.snapshot_entries=2000", "--set", "raft.segment_bytes=6291456")
	if c.tls != nil {
		c.tls.Issue(t, m.dir+".tls", "member")
		file := func(name string) string { return filepath.Join(m.dir+".tls", name) }
		m.cmd.Args = append(m.cmd.Args, "--peer-cert-file", file("cert.pem"), "--peer-key-file", file("key.pem"),
			"--peer-trusted-ca-file", file("ca.pem"), "--peer-client-cert-auth", "--peer-cert-allowed-cn", "member")
	}
	m.cmd.Args = append(m.cmd.Args, c.more...)
	m.cmd.Stdout, m.cmd.Stderr, m.cmd.Env = output, output, peers.Environment()
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

func (c *trio) kill(m *member) {
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
}

func answers(t *testing.T, m *member) {
	deadline := time.Now().Add(10 * time.Minute)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
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
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
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
	deadline := time.Now().Add(10 * time.Minute)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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

func TestNothingAcknowledgedIsLostWhileLeadersAreKilled(t *testing.T) {
	killed(t, three(t), func() {})
}

func TestNothingIsLostOverTLSEitherWhileLeadersAreKilledAndCertificatesChange(t *testing.T) {
	cluster := founded(t, peers.NewAuthority(t), func(*trio) {})
	killed(t, cluster, func() {
		for _, m := range cluster.members {
			cluster.tls.Issue(t, m.dir+".tls", "member")
		}
	})
}

// direct are clients of one member each.
func (c *trio) direct() map[string]*clientv3.Client {
	clients := map[string]*clientv3.Client{}
	for _, m := range c.members {
		clients[m.name] = m.direct
	}
	return clients
}

// killed kills members while clients write; before each kill, something else is done to them.
func killed(t *testing.T, cluster *trio, prepare func()) {
	rounds := 8
	if value, err := strconv.Atoi(os.Getenv("TINYKV_KILL_ROUNDS")); err == nil {
		rounds = value
	}
	seed := time.Now().UnixNano()
	t.Logf("%d rounds, seed %d", rounds, seed)
	random := rand.New(rand.NewSource(seed))
	ledger, stop := peers.NewLedger(), make(chan struct{})
	var running sync.WaitGroup
	for writer := range 6 {
		client := cluster.client
		if writer < 3 {
			client = cluster.members[writer].direct
		}
		running.Go(func() {
			ledger.Put(t, writer, 30*time.Second, stop, func() *clientv3.Client { return client })
		})
	}
	for round := range rounds {
		time.Sleep(time.Duration(500+random.Intn(1500)) * time.Millisecond)
		victim := cluster.leader()
		if victim == nil || round%4 == 3 {
			victim = cluster.members[random.Intn(3)]
		}
		prepare()
		cluster.kill(victim)
		time.Sleep(time.Duration(random.Intn(3000)) * time.Millisecond)
		cluster.start(t, victim)
		answers(t, victim)
	}
	close(stop)
	running.Wait()
	cluster.same(t)
	ledger.Compare(t, cluster.direct())
	t.Logf("%d acknowledged writes over %d kills, on every member; revision %d", ledger.Count(), rounds, ledger.Compared())
}

func TestMembersLeasesAndTheLeadershipThroughAnyMember(t *testing.T) {
	cluster := three(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
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
	lease, err := cluster.members[1].direct.Grant(ctx, 3600)
	if err != nil {
		t.Fatal(err)
	}
	put, err := cluster.members[2].direct.Put(ctx, "leased", "x", clientv3.WithLease(lease.ID))
	if err != nil {
		t.Fatal(err)
	}
	old, now := cluster.handOver(ctx, t)
	if _, err := old.direct.MoveLeader(ctx, 1); err == nil {
		t.Fatal("the leadership was handed to nobody")
	}
	for _, m := range []*member{old, now} {
		alive, err := m.direct.KeepAliveOnce(ctx, lease.ID)
		if err != nil || alive.TTL != 3600 {
			t.Fatalf("%s: %v, %v", m.name, alive, err)
		}
		left, err := m.direct.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
		if err != nil || left.TTL <= 0 || len(left.Keys) != 1 {
			t.Fatalf("%s: %v, %v", m.name, left, err)
		}
	}
	if _, err := now.direct.Revoke(ctx, lease.ID); err != nil {
		t.Fatal(err)
	}
	gone(ctx, t, old, put.Header.Revision)
	// One that nobody renews. On a slow machine it may run out before its key is written; then another one is taken.
	for {
		if lease, err = old.direct.Grant(ctx, 2); err != nil {
			t.Fatal(err)
		}
		put, err = now.direct.Put(ctx, "leased", "y", clientv3.WithLease(lease.ID))
		if err == nil {
			break
		}
		if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			t.Fatal(err)
		}
	}
	gone(ctx, t, old, put.Header.Revision)
	if after, err := old.direct.TimeToLive(ctx, lease.ID); err != nil || after.TTL != -1 {
		t.Fatalf("%v, %v", after, err)
	}
	cluster.same(t)
}

// gone waits until a member tells that the leased key was deleted after the revision given.
func gone(ctx context.Context, t *testing.T, m *member, revision int64) {
	told := <-m.direct.Watch(ctx, "leased", clientv3.WithRev(revision+1))
	if told.Err() != nil || len(told.Events) != 1 || told.Events[0].Type != clientv3.EventTypeDelete {
		t.Fatalf("%s: %v", m.name, told)
	}
}

// handOver moves the leadership to a member that does not lead. A machine that stalls may hold an election of its own
// meanwhile, so that is tried until it is seen. Answers who led before, and who led after.
func (c *trio) handOver(ctx context.Context, t *testing.T) (*member, *member) {
	for ctx.Err() == nil {
		leader := c.leader()
		for _, m := range c.members {
			if leader == nil || m == leader {
				continue
			}
			status, err := m.direct.Status(ctx, m.client)
			if err != nil {
				continue
			}
			if _, err := leader.direct.MoveLeader(ctx, status.Header.MemberId); err == nil && c.leader() == m {
				return leader, m
			}
			break
		}
	}
	t.Fatal("the leadership was never handed over")
	return nil, nil
}
