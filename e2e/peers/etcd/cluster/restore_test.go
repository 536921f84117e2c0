package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aistack/e2e/peers/etcd/peers"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/snapshot"
	"go.uber.org/zap"
)

// Three members are restored from a snapshot of etcd. They go on at its revision; a member that is added later gets what
// was never in their log; one that was restored from another file does not meet them.
func TestThreeMembersGoOnWhereASnapshotOfEtcdEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	etcd := peers.Etcd(t)
	for i := range 500 {
		if _, err := etcd.Client.Put(ctx, fmt.Sprintf("k/%d", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	files := []string{filepath.Join(t.TempDir(), "one.db"), filepath.Join(t.TempDir(), "other.db")}
	for _, file := range files {
		if _, err := snapshot.SaveWithVersion(ctx, zap.NewNop(), clientv3.Config{Endpoints: []string{etcd.Endpoint}}, file); err != nil {
			t.Fatal(err)
		}
		if _, err := etcd.Client.Put(ctx, "after", "x"); err != nil {
			t.Fatal(err)
		}
	}
	restore := func(c *trio, m *member, file string) {
		said := peers.Says(t, "restore", file, "--data-dir", m.dir, "--name", m.name, "--initial-cluster", c.initial)
		if !strings.Contains(said, "of 3 in the new cluster") {
			t.Fatal(said)
		}
	}
	cluster := founded(t, nil, func(c *trio) {
		for _, m := range c.members {
			restore(c, m, files[0])
		}
	})
	cluster.same(t)
	all := func(m *member) string {
		response, err := m.direct.Get(ctx, "k/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%d keys at revision %d", response.Count, response.Header.Revision)
	}
	for _, m := range cluster.members {
		if said := all(m); said != "500 keys at revision 501" {
			t.Fatalf("%s has %s", m.name, said)
		}
	}
	if _, err := cluster.client.Put(ctx, "k/new", "x"); err != nil {
		t.Fatal(err)
	}

	late := &member{
		name: "late", client: fmt.Sprintf("127.0.0.1:%d", port(t)), peer: fmt.Sprintf("127.0.0.1:%d", port(t)),
		dir: filepath.Join(t.TempDir(), "late"), log: filepath.Join(t.TempDir(), "late.log"),
	}
	late.direct = connect(t, late.client)
	insist(t, "add the fourth", func(ctx context.Context) error {
		_, err := cluster.client.MemberAdd(ctx, []string{"http://" + late.peer})
		return err
	}, rpctypes.ErrPeerURLExist)
	output, err := os.Create(late.log)
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	late.cmd = exec.Command(cluster.binary, "--name", late.name, "--data-dir", late.dir, "--listen-client-urls", "http://"+late.client,
		"--listen-peer-urls", "http://"+late.peer, "--initial-cluster", cluster.initial+",late=http://"+late.peer,
		"--initial-cluster-state", "existing", "--admin-listen", "127.0.0.1:0")
	late.cmd.Stdout, late.cmd.Stderr, late.cmd.Env = output, output, peers.Environment()
	if err := late.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = late.cmd.Process.Kill()
		_ = late.cmd.Wait()
	})
	answers(t, late)
	if said := all(late); said != "501 keys at revision 502" {
		t.Fatalf("the member that was added has %s", said)
	}

	// One of the three loses its disk, and is restored from another file: it is turned away, and the others go on.
	stray := cluster.members[0]
	cluster.kill(stray)
	if err := os.RemoveAll(stray.dir); err != nil {
		t.Fatal(err)
	}
	restore(cluster, stray, files[1])
	cluster.start(t, stray)
	for {
		text, _ := os.ReadFile(stray.log)
		if strings.Contains(string(text), "belongs to another cluster") {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("it was not turned away:\n%s", text)
		}
		time.Sleep(50 * time.Millisecond)
	}
	insist(t, "write without it", func(ctx context.Context) error {
		_, err := cluster.members[1].direct.Put(ctx, "k/newer", "x")
		return err
	})
}
