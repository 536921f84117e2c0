package snapshot

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aistack/e2e/peers/etcd/peers"

	bolt "go.etcd.io/bbolt"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/snapshot"
	etcdutl "go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
)

// save asks a server for a snapshot as etcdctl does.
func save(t testing.TB, server *peers.Server) string {
	t.Helper()
	ctx, cancel := patient()
	defer cancel()
	file := filepath.Join(t.TempDir(), "snapshot.db")
	version, err := snapshot.SaveWithVersion(ctx, zap.NewNop(), clientv3.Config{Endpoints: []string{server.Endpoint}}, file)
	if err != nil {
		t.Fatal(err)
	}
	told, err := server.Client.Status(ctx, server.Endpoint)
	if err != nil || version != told.StorageVersion {
		t.Errorf("%s says that its snapshot is of version %q: %+v, %v", server.Name, version, told, err)
	}
	return file
}

// sound has bbolt check a snapshot.
func sound(t testing.TB, file string) {
	t.Helper()
	db, err := bolt.Open(file, 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.View(func(tx *bolt.Tx) error {
		for wrong := range tx.Check() {
			t.Errorf("bbolt says: %v", wrong)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// intoEtcd restores a snapshot by etcd's own tool, and starts etcd on that.
func intoEtcd(t testing.TB, file string, bump uint64) *peers.Server {
	t.Helper()
	return peers.EtcdOn(t, func(data, peerURL string) {
		err := etcdutl.NewV3(zap.NewNop()).Restore(etcdutl.RestoreConfig{
			SnapshotPath: file, Name: "default", OutputDataDir: data, PeerURLs: []string{peerURL},
			InitialCluster: "default=" + peerURL, InitialClusterToken: "another", RevisionBump: bump, MarkCompacted: bump > 0,
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// intoTinykv restores a snapshot, and starts tinykv on that.
func intoTinykv(t testing.TB, file string, more ...string) *peers.Server {
	t.Helper()
	data := filepath.Join(t.TempDir(), "restored")
	said := peers.Says(t, append([]string{"restore", file, "--data-dir", data}, more...)...)
	if !strings.Contains(said, "in the new cluster") {
		t.Fatal(said)
	}
	if said := peers.Says(t, "check", "--data-dir", data); !strings.Contains(said, "sound") {
		t.Fatal(said)
	}
	return peers.TinykvIn(t, data)
}

// guards turns the users on, who are as they were.
func guards(t testing.TB, server *peers.Server) {
	t.Helper()
	ctx, cancel := patient()
	defer cancel()
	must(server.Client.AuthEnable(ctx))(t)
	for _, one := range []struct {
		name, password, key string
		refused             string
	}{
		{"root", "secret", "anything", ""}, {"ann", "pass", "t/1", ""}, {"ann", "pass", "anything", "permission denied"},
		{"ann", "guess", "t/1", "invalid user ID or password"}, {"bob", "x", "t/1", "no password user"},
	} {
		client, err := clientv3.New(clientv3.Config{
			Endpoints: []string{server.Endpoint}, Username: one.name, Password: one.password, DialTimeout: peers.Patience, Logger: zap.NewNop(),
		})
		if err == nil {
			_, err = client.Get(ctx, one.key)
			client.Close()
		}
		if (err == nil) != (one.refused == "") || err != nil && !strings.Contains(err.Error(), one.refused) {
			t.Errorf("%s: %s reads %s: %v, expected %q", server.Name, one.name, one.key, err, one.refused)
		}
	}
}

func TestASnapshotOfTinykvBecomesAnEtcd(t *testing.T) {
	for seed := int64(1); seed <= 4; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			server := peers.Tinykv(t)
			live(t, server.Client, seed, seed%2 == 0)
			file := save(t, server)
			before := learn(t, server.Client)
			sound(t, file)
			about, err := etcdutl.NewV3(zap.NewNop()).Status(file)
			if err != nil || about.Revision > before.Revision || about.Version != "3.7.0" || about.TotalKey == 0 {
				t.Fatalf("etcdutl says of it: %+v, %v", about, err)
			}
			etcd := intoEtcd(t, file, 0)
			same(t, "etcd, restored from tinykv", before, learn(t, etcd.Client))
			guards(t, etcd)
		})
	}
}

func TestASnapshotOfEtcdBecomesATinykv(t *testing.T) {
	for seed := int64(11); seed <= 14; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			server := peers.Etcd(t, "--bcrypt-cost=4")
			live(t, server.Client, seed, seed%2 == 0)
			file := save(t, server)
			before := learn(t, server.Client)
			tinykv := intoTinykv(t, file)
			same(t, "tinykv, restored from etcd", before, learn(t, tinykv.Client))
			tinykv.Kill(t)
			tinykv.Start(t)
			guards(t, tinykv)
		})
	}
}

func TestThereAndBackAgain(t *testing.T) {
	etcd := peers.Etcd(t, "--bcrypt-cost=4")
	live(t, etcd.Client, 21, true)
	first := save(t, etcd)
	tinykv := intoTinykv(t, first)
	second := save(t, tinykv)
	sound(t, second)
	before := learn(t, etcd.Client)
	same(t, "etcd by way of tinykv", before, learn(t, intoEtcd(t, second, 0).Client))
}

func TestABackupIsWholeAndCanBeRestoredAtALaterRevision(t *testing.T) {
	for _, server := range []*peers.Server{peers.Tinykv(t), peers.Etcd(t, "--bcrypt-cost=4")} {
		live(t, server.Client, 31, true)
		before := learn(t, server.Client)
		file := filepath.Join(t.TempDir(), "backup.db")
		ctx, cancel := patient()
		must(server.Client.AuthEnable(ctx))(t)
		if said := peers.Says(t, "backup", file, "--endpoints", server.Endpoint); !strings.Contains(said, "user name is empty") {
			t.Errorf("%s: %s", server.Name, said)
		}
		if said := peers.Says(t, "backup", file, "--endpoints", server.Endpoint, "--user", "ann:pass"); !strings.Contains(said, "permission denied") {
			t.Errorf("%s: %s", server.Name, said)
		}
		if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 0 {
			t.Errorf("a backup that failed left %v, %v", left, err)
		}
		said := peers.Says(t, "backup", file, "--endpoints", server.Endpoint, "--user", "root:secret")
		if !strings.Contains(said, "with their SHA-256") {
			t.Fatalf("%s: %s", server.Name, said)
		}
		restored := intoTinykv(t, file, "--bump-revision=1000000", "--mark-compacted")
		root, err := clientv3.New(clientv3.Config{
			Endpoints: []string{restored.Endpoint}, Username: "root", Password: "secret", DialTimeout: peers.Patience, Logger: zap.NewNop(),
		})
		if err != nil {
			t.Fatal(err)
		}
		now := must(root.Get(ctx, "k/", clientv3.WithPrefix()))(t)
		// Between the look and the backup, a mark was put and deleted.
		if expected := before.Revision + 2 + 1_000_000; now.Header.Revision != expected {
			t.Errorf("%s: restored at revision %d, expected %d", server.Name, now.Header.Revision, expected)
		}
		var keys []string
		for _, kv := range now.Kvs {
			keys = append(keys, told(kv))
		}
		then := before.Keys[before.Revision]
		if strings.Join(keys, "\n") != strings.Join(onlyOf(then, `"k/`), "\n") {
			t.Errorf("%s: restored are %q", server.Name, keys)
		}
		response := <-root.Watch(ctx, "k/", clientv3.WithPrefix(), clientv3.WithRev(before.Revision))
		if response.CompactRevision != now.Header.Revision {
			t.Errorf("%s: a watcher of old is told %v, %v", server.Name, response.CompactRevision, response.Err())
		}
		if put := must(root.Put(ctx, "k/new", "x"))(t); put.Header.Revision != now.Header.Revision+1 {
			t.Errorf("%s: the next revision is %d", server.Name, put.Header.Revision)
		}
		root.Close()
		cancel()
	}
}

func onlyOf(keys []string, start string) (found []string) {
	for _, key := range keys {
		if strings.HasPrefix(key, start) {
			found = append(found, key)
		}
	}
	return found
}

// A snapshot that is taken while clients write holds one revision, whole.
func TestASnapshotStandsStillWhileWritesGoOn(t *testing.T) {
	server := peers.Tinykv(t)
	ctx, cancel := patient()
	defer cancel()
	writing, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		for count := 0; ; count++ {
			if count == 200 {
				close(started)
			}
			value := fmt.Sprint(count)
			// All of these are the same at every revision.
			_, err := server.Client.Txn(writing).Then(clientv3.OpPut("a", value), clientv3.OpPut("b", value), clientv3.OpPut(fmt.Sprintf("n/%d", count), value)).Commit()
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	<-started
	var files []string
	for range 5 {
		files = append(files, save(t, server))
	}
	stop()
	<-ended
	for _, file := range files {
		sound(t, file)
		restored := intoTinykv(t, file)
		a, b := must(restored.Client.Get(ctx, "a"))(t), must(restored.Client.Get(ctx, "b"))(t)
		all := must(restored.Client.Get(ctx, "n/", clientv3.WithPrefix(), clientv3.WithCountOnly()))(t)
		if string(a.Kvs[0].Value) != string(b.Kvs[0].Value) || fmt.Sprint(all.Count-1) != string(a.Kvs[0].Value) || all.Header.Revision != all.Count+1 {
			t.Errorf("a is %s, b is %s, of the rest there are %d at revision %d", a.Kvs[0].Value, b.Kvs[0].Value, all.Count, all.Header.Revision)
		}
		restored.Stop(t)
	}
}

func TestDamageIsRefusedByTheNameOfTheFile(t *testing.T) {
	server := peers.Etcd(t, "--bcrypt-cost=4")
	live(t, server.Client, 41, false)
	whole, err := os.ReadFile(save(t, server))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, data := filepath.Join(dir, "damaged.db"), filepath.Join(dir, "data")
	refused := func(what string, bytes []byte, more ...string) {
		t.Helper()
		if err := os.WriteFile(file, bytes, 0o600); err != nil {
			t.Fatal(err)
		}
		said := peers.Says(t, append([]string{"restore", file, "--data-dir", data}, more...)...)
		if strings.Contains(said, "panicked") || !strings.HasPrefix(said, "error: ") || !strings.Contains(said, file) {
			t.Errorf("%s: it says %q", what, said)
		}
	}
	random := rand.New(rand.NewSource(5))
	refused("empty", nil)
	refused("text", []byte(strings.Repeat("no snapshot\n", 1000)))
	refused("only the first page", whole[:4096], "--skip-hash-check")
	for range 10 {
		cut := random.Intn(len(whole))
		refused(fmt.Sprintf("cut at %d", cut), whole[:cut])
		flipped := append([]byte{}, whole...)
		at := random.Intn(len(flipped))
		flipped[at] ^= 1 << random.Intn(8)
		refused(fmt.Sprintf("flipped at %d", at), flipped)
	}
	noise := append([]byte{}, whole...)
	random.Read(noise[8192 : len(noise)-32])
	refused("noise", noise, "--skip-hash-check")
	// The whole one is taken, into an empty directory only.
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if said := peers.Says(t, "restore", file, "--data-dir", data); !strings.Contains(said, "in the new cluster") {
		t.Fatal(said)
	}
	if said := peers.Says(t, "restore", file, "--data-dir", data); !strings.Contains(said, "is not empty") {
		t.Error(said)
	}
}
