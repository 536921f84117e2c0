//go:build storage

// Package testserver stands in for the package of that name beside Kubernetes' storage tests: what they start is the program that
// STORE_BINARY names, not an etcd that is linked into the tests.
package testserver

import (
	"context"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
)

// patience is for what must happen, however slow and busy the machine is.
const patience = 5 * time.Minute

func freeURL(t testing.TB) url.URL {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return url.URL{Scheme: "http", Host: listener.Addr().String()}
}

// NewTestConfig is what the tests change before they start a server.
func NewTestConfig(t testing.TB) *embed.Config {
	cfg := embed.NewConfig()
	clients, peers := freeURL(t), freeURL(t)
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{clients}, []url.URL{clients}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peers}, []url.URL{peers}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.Dir = t.TempDir()
	return cfg
}

// RunEtcd starts a server with the configuration, or with that of NewTestConfig, which ends with the test.
func RunEtcd(t testing.TB, cfg *embed.Config) *kubernetes.Client {
	t.Helper()
	if cfg == nil {
		cfg = NewTestConfig(t)
	}
	at := cfg.ListenClientUrls[0].String()
	log := filepath.Join(t.TempDir(), "log.txt")
	output, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	// As many of the settings as the tests change.
	server := exec.Command(os.Getenv("STORE_BINARY"), "--name", cfg.Name, "--data-dir", filepath.Join(cfg.Dir, "data"),
		"--listen-client-urls", at, "--advertise-client-urls", at,
		"--listen-peer-urls", cfg.ListenPeerUrls[0].String(), "--initial-advertise-peer-urls", cfg.ListenPeerUrls[0].String(),
		"--initial-cluster", cfg.InitialCluster, "--watch-progress-notify-interval", cfg.WatchProgressNotifyInterval.String(),
		"--log-level", "error")
	server.Stdout, server.Stderr = output, output
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = server.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = server.Process.Kill()
		<-ended
		if text, _ := os.ReadFile(log); t.Failed() && len(text) > 0 {
			t.Logf("the server said:\n%s", text[max(0, len(text)-3000):])
		}
	})

	client, err := kubernetes.New(clientv3.Config{
		Endpoints: []string{at}, DialTimeout: patience,
		Logger: zaptest.NewLogger(t, zaptest.Level(zapcore.FatalLevel)).Named("etcd-client"),
	})
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		_, err := client.Status(ctx, at)
		cancel()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server does not answer: %v", err)
		}
		select {
		case <-ended:
			t.Fatal("the server has ended by itself")
		case <-time.After(5 * time.Millisecond):
		}
	}
	recorder := storagetesting.NewKubernetesRecorder(client.Kubernetes)
	client.KV = storagetesting.NewKVRecorder(client.KV, recorder)
	client.Kubernetes = recorder
	return client
}
