package snapshot

import (
	"testing"

	"aistack/e2e/peers/etcd/peers"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
)

// A snapshot that is taken while a cluster goes back has the earlier release's form, and whoever is restored from it goes on
// going back: etcd from tinykv's, and tinykv from etcd's.
func TestASnapshotOfADowngradeHasTheEarlierForm(t *testing.T) {
	goesBack := func(server *peers.Server) {
		t.Helper()
		ctx, cancel := patient()
		defer cancel()
		for {
			told, err := server.Client.Status(ctx, server.Endpoint)
			if err != nil {
				t.Fatal(err)
			}
			if info := told.DowngradeInfo; told.StorageVersion == "3.6.0" && info.Enabled && info.TargetVersion == "3.6.0" {
				return
			}
		}
	}
	for _, server := range []*peers.Server{peers.Tinykv(t), peers.Etcd(t)} {
		ctx, cancel := patient()
		if _, err := server.Client.Put(ctx, "key", "value"); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Client.Downgrade(ctx, clientv3.DowngradeEnable, "3.6"); err != nil {
			t.Fatal(err)
		}
		goesBack(server)
		file := save(t, server)
		about, err := snapshot.NewV3(zap.NewNop()).Status(file)
		if err != nil || about.Version != "3.6.0" {
			t.Fatalf("%s: etcdutl says of it: %+v, %v", server.Name, about, err)
		}
		next := intoTinykv(t, file)
		if server.Name == "tinykv" {
			next = intoEtcd(t, file, 0)
		}
		goesBack(next)
		if got, err := next.Client.Get(ctx, "key"); err != nil || len(got.Kvs) != 1 {
			t.Fatalf("%s: %v, %v", next.Name, got, err)
		}
		cancel()
	}
}
