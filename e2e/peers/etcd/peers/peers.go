// Package peers starts the two servers that the tests compare: etcd itself and tinykv.
package peers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Patience is for what must happen, however slow and busy the machine is.
const Patience = 5 * time.Minute

// Server is a running server and a client connected to it.
type Server struct {
	Name     string
	Endpoint string
	DataDir  string
	Client   *clientv3.Client
	cmd      *exec.Cmd
	start    func() *exec.Cmd
	tls      *tls.Config
	log      string
}

// Binary names the program to run: an environment variable, or a default.
func Binary(t testing.TB, variable, fallback string) string {
	path := os.Getenv(variable)
	if path == "" {
		path = fallback
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s: no program there; build it, or set %s", path, variable)
	}
	return path
}

func freePort(t testing.TB) int {
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// Etcd starts etcd with a fresh data directory.
func Etcd(t testing.TB, more ...string) *Server {
	return EtcdTLS(t, nil, more...)
}

// EtcdOn starts etcd on a data directory that something else has made for it.
func EtcdOn(t testing.TB, prepare func(data, peerURL string), more ...string) *Server {
	return etcd(t, nil, prepare, more...)
}

// EtcdTLS is Etcd, called over TLS if there is a configuration of it.
func EtcdTLS(t testing.TB, over *tls.Config, more ...string) *Server {
	return etcd(t, over, func(string, string) {}, more...)
}

func etcd(t testing.TB, over *tls.Config, prepare func(data, peerURL string), more ...string) *Server {
	binary := Binary(t, "PEER_ETCD", os.ExpandEnv("$HOME/.cache/aistack/etcd/etcd"))
	dir, port, peer := t.TempDir(), freePort(t), freePort(t)
	client := fmt.Sprintf("%s://127.0.0.1:%d", scheme(over), port)
	peerURL := fmt.Sprintf("http://127.0.0.1:%d", peer)
	prepare(filepath.Join(dir, "data"), peerURL)
	return launch(t, "etcd", client, filepath.Join(dir, "data"), over, func() *exec.Cmd {
		arguments := []string{"--data-dir", filepath.Join(dir, "data"), "--listen-client-urls", client,
			"--advertise-client-urls", client, "--listen-peer-urls", peerURL, "--initial-advertise-peer-urls", peerURL,
			"--initial-cluster", "default=" + peerURL, "--log-level", "error"}
		return exec.Command(binary, append(arguments, more...)...)
	})
}

// Tinykv starts tinykv with a fresh data directory.
func Tinykv(t testing.TB, more ...string) *Server {
	return TinykvIn(t, filepath.Join(t.TempDir(), "data"), more...)
}

// TinykvTLS is Tinykv, called over TLS.
func TinykvTLS(t testing.TB, over *tls.Config, more ...string) *Server {
	return tinykvIn(t, filepath.Join(t.TempDir(), "data"), over, more...)
}

func scheme(over *tls.Config) string {
	if over == nil {
		return "http"
	}
	return "https"
}

func tinykv(t testing.TB) string {
	return Binary(t, "PEER_TINYKV", "../../../../target/release/tinykv")
}

// Says runs tinykv to its end and answers what it printed.
func Says(t testing.TB, arguments ...string) string {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	command := exec.CommandContext(ctx, tinykv(t), arguments...)
	command.Env = Environment()
	text, _ := command.CombinedOutput()
	return string(text)
}

// TinykvIn starts tinykv with the data directory given.
func TinykvIn(t testing.TB, data string, more ...string) *Server {
	return tinykvIn(t, data, nil, more...)
}

func tinykvIn(t testing.TB, data string, over *tls.Config, more ...string) *Server {
	binary := tinykv(t)
	client := fmt.Sprintf("%s://127.0.0.1:%d", scheme(over), freePort(t))
	return launch(t, "tinykv", client, data, over, func() *exec.Cmd {
		arguments := []string{"--data-dir", data, "--listen-client-urls", client,
			"--admin-listen", "127.0.0.1:0"}
		return exec.Command(binary, append(arguments, more...)...)
	})
}

func launch(t testing.TB, name, endpoint, data string, over *tls.Config, start func() *exec.Cmd) *Server {
	server := &Server{Name: name, Endpoint: endpoint, DataDir: data, start: start, tls: over, log: filepath.Join(t.TempDir(), "log.txt")}
	server.Start(t)
	t.Cleanup(func() {
		server.Client.Close()
		_ = server.cmd.Process.Kill()
		_ = server.cmd.Wait()
	})
	return server
}

// Environment is what servers are started with: the tests' own variables are not settings of theirs.
func Environment() []string {
	var kept []string
	for _, setting := range os.Environ() {
		if !strings.HasPrefix(setting, "TINYKV_") && !strings.HasPrefix(setting, "ETCD_") {
			kept = append(kept, setting)
		}
	}
	return kept
}

// Start starts the process and waits until it answers.
func (s *Server) Start(t testing.TB) {
	output, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	s.cmd = s.start()
	s.cmd.Stdout, s.cmd.Stderr = output, output
	s.cmd.Env = Environment()
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if s.Client == nil {
		s.Client, err = clientv3.New(clientv3.Config{
			Endpoints: []string{s.Endpoint}, DialTimeout: Patience, TLS: s.tls, Logger: zap.NewNop(),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(Patience)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		_, err := s.Client.Get(ctx, "is-it-there")
		cancel()
		// Who is asked for a user is answered, too.
		if err == nil || errors.Is(err, rpctypes.ErrUserEmpty) {
			return
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(s.log)
			t.Fatalf("%s does not answer: %v\n%s", s.Name, err, strings.TrimSpace(string(text)))
		}
	}
}

// Stop asks the process to end, and waits for it.
func (s *Server) Stop(t testing.TB) {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Fatalf("%s did not stop in good order: %v", s.Name, err)
	}
}

// Refuses starts the process, which must end by itself with an error; answers what it said.
func (s *Server) Refuses(t testing.TB) string {
	s.cmd = s.start()
	ended := make(chan struct{})
	go func() {
		select {
		case <-time.After(Patience):
			_ = s.cmd.Process.Kill()
		case <-ended:
		}
	}()
	text, err := s.cmd.CombinedOutput()
	close(ended)
	if err == nil {
		t.Fatalf("%s ended without an error", s.Name)
	}
	return string(text)
}

// Exits waits for the running process to end by itself; answers what it has said.
func (s *Server) Exits(t testing.TB) string {
	ended := make(chan error, 1)
	go func() { ended <- s.cmd.Wait() }()
	select {
	case err := <-ended:
		if err == nil {
			t.Fatalf("%s ended without an error", s.Name)
		}
	case <-time.After(Patience):
		t.Fatalf("%s goes on", s.Name)
	}
	text, _ := os.ReadFile(s.log)
	return string(text)
}

// Kill ends the process as a power cut would, as far as it is concerned.
func (s *Server) Kill(t testing.TB) {
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait()
}

// Pid is the process id.
func (s *Server) Pid() int { return s.cmd.Process.Pid }
