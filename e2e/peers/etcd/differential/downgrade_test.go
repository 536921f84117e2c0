package differential

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"aistack/e2e/peers/etcd/peers"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/status"
)

func homeEtcd() string { return os.ExpandEnv("$HOME/.cache/aistack/etcd/etcd") }

// settled waits until a server is of a release, as its storage is, and answers what it says of downgrades.
func settled(t *testing.T, server *peers.Server, storage string) string {
	ctx, cancel := context.WithTimeout(context.Background(), peers.Patience)
	defer cancel()
	for {
		told, err := server.Client.Status(ctx, server.Endpoint)
		if err == nil && told.StorageVersion == storage {
			return fmt.Sprintf("%v %q", told.DowngradeInfo.Enabled, told.DowngradeInfo.TargetVersion)
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v, %v", server.Name, told, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// A downgrade, from the first question to the last cancellation: each answer is etcd's. etcd changes its version a while after
// it was told to, and tinykv at once: both are asked when they have.
func TestDowngradesAreAnsweredAsByEtcd(t *testing.T) {
	const validate, enable, cancel = clientv3.DowngradeValidate, clientv3.DowngradeEnable, clientv3.DowngradeCancel
	steps := []struct {
		action  clientv3.DowngradeAction
		version string
		after   string // the storage's version then
	}{
		{cancel, "", "3.7.0"}, {validate, "3.6", "3.7.0"}, {validate, "3.6.13", "3.7.0"}, {validate, "3.7", "3.7.0"},
		{validate, "3.5", "3.7.0"}, {validate, "3", "3.7.0"}, {validate, "", "3.7.0"}, {enable, "3.7", "3.7.0"},
		{enable, "x", "3.7.0"}, {enable, "3.6.0", "3.6.0"}, {validate, "3.6", "3.6.0"}, {enable, "3.6", "3.6.0"},
		{validate, "3.5", "3.6.0"}, {enable, "3.5", "3.6.0"}, {cancel, "", "3.7.0"}, {cancel, "", "3.7.0"},
		{validate, "3.6", "3.7.0"}, {enable, "3.6", "3.6.0"},
	}
	servers := []*peers.Server{peers.Etcd(t), peers.Tinykv(t)}
	for _, server := range servers {
		settled(t, server, "3.7.0")
	}
	for nth, step := range steps {
		var said []string
		for _, server := range servers {
			ctx, stop := context.WithTimeout(context.Background(), peers.Patience)
			answer, err := server.Client.Downgrade(ctx, step.action, step.version)
			stop()
			text := fmt.Sprint(status.Code(err), " ", err)
			if err == nil {
				text = answer.Version
			}
			said = append(said, text+", then "+settled(t, server, step.after))
		}
		if said[0] != said[1] {
			t.Errorf("step %d, %v %s:\netcd:   %s\ntinykv: %s", nth, step.action, step.version, said[0], said[1])
		}
	}
}
