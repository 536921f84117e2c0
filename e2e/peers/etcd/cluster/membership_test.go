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

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// growing is a cluster whose members come and go.
type growing struct {
	binary, dir string
	next        int
	lock        sync.Mutex
	running     map[uint64]*member
}

func (g *growing) member(t *testing.T) *member {
	g.next++
	name := fmt.Sprintf("m%d", g.next)
	m := &member{
		name: name, client: fmt.Sprintf("127.0.0.1:%d", port(t)), peer: fmt.Sprintf("127.0.0.1:%d", port(t)),
		dir: filepath.Join(g.dir, name), log: filepath.Join(g.dir, name+".log"),
	}
	m.direct = connect(t, m.client)
	t.Cleanup(func() {
		if m.cmd != nil {
			_ = m.cmd.Process.Kill()
			_ = m.cmd.Wait()
		}
		if t.Failed() {
			text, _ := os.ReadFile(m.log)
			t.Logf("%s said:\n%s", m.name, text[max(0, len(text)-1500):])
		}
	})
	return m
}

func (g *growing) start(t *testing.T, m *member, state, initial string) {
	g.startWith(t, m, "--initial-cluster", initial, "--initial-cluster-state", state)
}

func (g *growing) startWith(t *testing.T, m *member, more ...string) {
	output, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	m.cmd = exec.Command(g.binary, append([]string{"--name", m.name, "--data-dir", m.dir,
		"--listen-client-urls", "http://" + m.client, "--listen-peer-urls", "http://" + m.peer,
		"--admin-listen", "127.0.0.1:0", "--set", "raft.snapshot_entries=500", "--set", "raft.segment_bytes=6291456"}, more...)...)
	m.cmd.Stdout, m.cmd.Stderr, m.cmd.Env = output, output, peers.Environment()
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

func (g *growing) any() *member {
	g.lock.Lock()
	defer g.lock.Unlock()
	for _, m := range g.running {
		return m
	}
	return nil
}

// list asks whoever answers for the members.
func (g *growing) list(t *testing.T) []*etcdserverpb.Member {
	deadline := time.Now().Add(3 * time.Minute)
	for {
		m := g.any()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		list, err := m.direct.MemberList(ctx)
		cancel()
		if err == nil {
			return list.Members
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody lists the members: %v", err)
		}
	}
}

// initial is the list of members as a new one is given it.
func initial(list []*etcdserverpb.Member, m *member) string {
	parts := []string{m.name + "=http://" + m.peer}
	for _, known := range list {
		if known.Name != "" && known.Name != m.name {
			parts = append(parts, known.Name+"="+known.PeerURLs[0])
		}
	}
	return strings.Join(parts, ",")
}

// insist repeats a change until it is made, or says what etcd says for good.
func insist(t *testing.T, what string, change func(ctx context.Context) error, done ...error) {
	deadline := time.Now().Add(3 * time.Minute)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		err := change(ctx)
		cancel()
		if err == nil {
			return
		}
		for _, known := range done {
			if errors.Is(err, known) {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// grow adds a member, as a voter or through a learner, and starts it.
func (g *growing) grow(t *testing.T, learner bool) {
	m := g.member(t)
	urls := []string{"http://" + m.peer}
	insist(t, "add", func(ctx context.Context) error {
		var err error
		if learner {
			_, err = g.any().direct.MemberAddAsLearner(ctx, urls)
		} else {
			_, err = g.any().direct.MemberAdd(ctx, urls)
		}
		return err
	}, rpctypes.ErrPeerURLExist)
	list := g.list(t)
	var id uint64
	for _, known := range list {
		if known.PeerURLs[0] == urls[0] {
			id = known.ID
		}
	}
	g.start(t, m, "existing", initial(list, m))
	if learner {
		insist(t, "promote", func(ctx context.Context) error {
			_, err := g.any().direct.MemberPromote(ctx, id)
			return err
		}, rpctypes.ErrMemberNotLearner)
	}
	answers(t, m)
	g.lock.Lock()
	g.running[id] = m
	g.lock.Unlock()
}

// shrink removes a member, which must then end by itself, in good order, and not come back.
func (g *growing) shrink(t *testing.T, id uint64, m *member) {
	g.lock.Lock()
	delete(g.running, id)
	g.lock.Unlock()
	insist(t, "remove", func(ctx context.Context) error {
		_, err := g.any().direct.MemberRemove(ctx, id)
		return err
	}, rpctypes.ErrMemberNotFound)
	ended := make(chan error, 1)
	cmd := m.cmd
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if text, _ := os.ReadFile(m.log); err != nil || !strings.Contains(string(text), "permanently removed") {
			t.Fatalf("%s ended: %v", m.name, err)
		}
	case <-time.After(3 * time.Minute):
		t.Fatalf("%s was removed and goes on", m.name)
	}
	g.start(t, m, "existing", initial(nil, m))
	if err := m.cmd.Wait(); err == nil {
		t.Fatalf("%s was removed and came back", m.name)
	}
	m.cmd = nil
}

func TestMembersComeAndGoUnderKillNineAndNothingAcknowledgedIsLost(t *testing.T) {
	rounds := 6
	if value, err := strconv.Atoi(os.Getenv("TINYKV_MEMBER_ROUNDS")); err == nil {
		rounds = value
	}
	seed := time.Now().UnixNano()
	t.Logf("%d rounds, seed %d", rounds, seed)
	random := rand.New(rand.NewSource(seed))
	g := none(t)
	first := g.member(t)
	g.start(t, first, "new", initial(nil, first))
	answers(t, first)
	g.running[0] = first
	id := g.list(t)[0].ID
	delete(g.running, 0)
	g.running[id] = first
	g.grow(t, false)
	g.grow(t, true)

	ledger, stop := peers.NewLedger(), make(chan struct{})
	var writing sync.WaitGroup
	for writer := range 4 {
		writing.Go(func() {
			ledger.Put(t, writer, 5*time.Second, stop, func() *clientv3.Client { return g.any().direct })
		})
	}
	for range rounds {
		// A member dies in the middle of a change, and comes back.
		ids := make([]uint64, 0, len(g.running))
		for id := range g.running {
			ids = append(ids, id)
		}
		leaver, victim := ids[0], g.running[ids[1+random.Intn(len(ids)-1)]]
		killed := make(chan struct{})
		delay := time.Duration(random.Intn(400)) * time.Millisecond
		go func() {
			defer close(killed)
			time.Sleep(delay)
			_ = victim.cmd.Process.Kill()
			_ = victim.cmd.Wait()
		}()
		restarted := make(chan struct{})
		go func() {
			defer close(restarted)
			<-killed
			g.start(t, victim, "existing", initial(nil, victim))
		}()
		if len(ids) < 5 && (len(ids) < 4 || random.Intn(2) == 0) {
			g.grow(t, random.Intn(2) == 0)
		} else {
			g.shrink(t, leaver, g.running[leaver])
		}
		<-restarted
		answers(t, victim)
	}
	close(stop)
	writing.Wait()
	if list := g.list(t); len(list) != len(g.running) {
		t.Fatalf("%d run, listed are %v", len(g.running), list)
	}
	members := map[string]*clientv3.Client{}
	for _, m := range g.running {
		members[m.name] = m.direct
	}
	ledger.Compare(t, members)
	t.Logf("%d acknowledged writes over %d changes, on each of %d members; revision %d", ledger.Count(), rounds, len(g.running), ledger.Compared())
}
