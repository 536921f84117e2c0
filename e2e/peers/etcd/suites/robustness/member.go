package robustness

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/tests/v3/framework/e2e"
	"go.uber.org/zap"
)

// patience is for what must happen, however slow and busy the machine is.
const patience = 5 * time.Minute

// settings are what members are started with besides their addresses.
type settings struct {
	Snapshot, HeartbeatMs, ElectionMs int
}

// A member is one tinykv, as far as etcd's robustness packages ask for a process.
type member struct {
	e2e.EtcdProcess // what nobody asks here: etcdctl, failpoints compiled in, lines of the log

	index   int
	config  *e2e.EtcdServerProcessConfig
	network network
	log     string
	direct  *clientv3.Client

	lock  sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{}
}

// A cluster is three members.
type cluster struct {
	members []*member
	network network
}

func newCluster(binary, dir string, network network, settings settings) (*cluster, error) {
	var initial []string
	for i := range size {
		initial = append(initial, fmt.Sprintf("m%d=%s", i, network.known(i)))
	}
	c := &cluster{network: network}
	for i := range size {
		peer, err := url.Parse(network.known(i))
		if err != nil {
			return nil, err
		}
		name := fmt.Sprintf("m%d", i)
		config := &e2e.EtcdServerProcessConfig{
			Name: name, ExecPath: binary, DataDirPath: filepath.Join(dir, name), PeerURL: *peer, ClientURL: network.client(i),
			InitialCluster: strings.Join(initial, ","),
		}
		config.Args = []string{
			"--name=" + name, "--data-dir=" + config.DataDirPath, "--admin-listen=127.0.0.1:0",
			"--listen-client-urls=" + config.ClientURL, "--advertise-client-urls=" + config.ClientURL,
			"--listen-peer-urls=" + network.peer(i), "--initial-advertise-peer-urls=" + network.known(i),
			"--initial-cluster=" + config.InitialCluster, "--initial-cluster-state=new",
			fmt.Sprintf("--snapshot-count=%d", settings.Snapshot),
			fmt.Sprintf("--heartbeat-interval=%d", settings.HeartbeatMs),
			fmt.Sprintf("--election-timeout=%d", settings.ElectionMs),
			"--watch-progress-notify-interval=100ms",
			// So much that no segment is ever removed: the history is read from them.
			"--set", "raft.segment_bytes=33554432",
		}
		direct, err := connect(config.ClientURL)
		if err != nil {
			return nil, err
		}
		c.members = append(c.members, &member{
			index: i, config: config, network: network, direct: direct, log: filepath.Join(dir, name+".log"),
		})
	}
	return c, nil
}

// etcd is the cluster in the form that etcd's packages take.
func (c *cluster) etcd() *e2e.EtcdProcessCluster {
	processes := &e2e.EtcdProcessCluster{Cfg: e2e.DefaultConfig()}
	for _, m := range c.members {
		processes.Procs = append(processes.Procs, m)
	}
	return processes
}

func (c *cluster) start(ctx context.Context) error {
	for _, m := range c.members {
		if err := m.launch(); err != nil {
			return err
		}
	}
	return c.settle(ctx)
}

// settle waits until every member answers a linearizable read.
func (c *cluster) settle(ctx context.Context) error {
	for _, m := range c.members {
		if err := m.answers(ctx); err != nil {
			return err
		}
	}
	return nil
}

// leader waits for one, and answers it and the others.
func (c *cluster) leader(ctx context.Context) (*member, []*member, error) {
	for ctx.Err() == nil {
		for i, m := range c.members {
			asking, cancel := context.WithTimeout(ctx, time.Second)
			status, err := m.direct.Status(asking, m.config.ClientURL)
			cancel()
			if err == nil && status.Leader == status.Header.MemberId {
				return m, append(append([]*member{}, c.members[:i]...), c.members[i+1:]...), nil
			}
		}
		rest(ctx, 20*time.Millisecond)
	}
	return nil, nil, fmt.Errorf("no leader: %w", ctx.Err())
}

func (c *cluster) stop() {
	for _, m := range c.members {
		_ = m.Kill()
		m.direct.Close()
	}
	for _, m := range c.members {
		_ = m.Wait(context.Background())
	}
}

// rest waits, at most as long as the context lives.
func rest(ctx context.Context, duration time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(duration):
	}
}

func connect(endpoints ...string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: endpoints, Logger: zap.NewNop(), DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 10 * time.Second,
	})
}

func (m *member) answers(ctx context.Context) error {
	var err error
	for ctx.Err() == nil {
		asking, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err = m.direct.Get(asking, "is-it-there")
		cancel()
		if err == nil {
			return nil
		}
		if !m.IsRunning() {
			return fmt.Errorf("%s has ended; see %s", m.config.Name, m.log)
		}
		rest(ctx, 20*time.Millisecond)
	}
	return fmt.Errorf("%s does not answer: %w; see %s", m.config.Name, err, m.log)
}

func (m *member) launch() error {
	m.lock.Lock()
	defer m.lock.Unlock()
	output, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	cmd := m.network.command(m.index, m.config.ExecPath, m.config.Args...)
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	m.cmd, m.ended = cmd, ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	return nil
}

func (m *member) process() (*exec.Cmd, <-chan struct{}) {
	m.lock.Lock()
	defer m.lock.Unlock()
	return m.cmd, m.ended
}

func (m *member) signal(signal syscall.Signal) error {
	cmd, _ := m.process()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

func (m *member) EndpointsGRPC() []string { return []string{m.config.ClientURL} }
func (m *member) EndpointsHTTP() []string { return m.EndpointsGRPC() }

func (m *member) Config() *e2e.EtcdServerProcessConfig { return m.config }
func (m *member) LazyFS() *e2e.LazyFS                  { return nil }

func (m *member) Kill() error   { return m.signal(syscall.SIGKILL) }
func (m *member) Pause() error  { return m.signal(syscall.SIGSTOP) }
func (m *member) Resume() error { return m.signal(syscall.SIGCONT) }

func (m *member) IsRunning() bool {
	_, ended := m.process()
	select {
	case <-ended:
		return false
	default:
		return ended != nil
	}
}

func (m *member) Wait(ctx context.Context) error {
	_, ended := m.process()
	if ended == nil {
		return nil
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *member) Start(ctx context.Context) error {
	if err := m.launch(); err != nil {
		return err
	}
	return m.answers(ctx)
}
