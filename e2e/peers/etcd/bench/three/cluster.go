package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"aistack/e2e/peers/etcd/peers"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// member is one process of a cluster.
type member struct {
	endpoint  string
	arguments []string
	log       string
	cmd       *exec.Cmd
	// CPU time of processes before this one, in seconds.
	spent float64
}

// cluster is three members of one kind, fsync on, with etcd's own flags and timers.
type cluster struct {
	name, binary string
	dir          string
	members      []*member
	client       *clientv3.Client
}

func port() int {
	port, err := peers.FreePort()
	if err != nil {
		log.Fatal(err)
	}
	return port
}

func startCluster(name, binary, dir string) *cluster {
	c := &cluster{name: name, binary: binary, dir: dir}
	var initial, urls []string
	for i := range 3 {
		url := fmt.Sprintf("http://127.0.0.1:%d", port())
		initial, urls = append(initial, fmt.Sprintf("m%d=%s", i, url)), append(urls, url)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		log.Fatal(err)
	}
	var endpoints []string
	for i := range 3 {
		endpoint := fmt.Sprintf("http://127.0.0.1:%d", port())
		arguments := []string{"--name", fmt.Sprintf("m%d", i), "--data-dir", filepath.Join(dir, fmt.Sprintf("m%d", i)),
			"--listen-client-urls", endpoint, "--advertise-client-urls", endpoint,
			"--listen-peer-urls", urls[i], "--initial-advertise-peer-urls", urls[i],
			"--initial-cluster", strings.Join(initial, ","), "--quota-backend-bytes", "8589934592"}
		if name == "etcd" {
			arguments = append(arguments, "--log-level", "error")
		} else {
			arguments = append(arguments, "--admin-listen", "127.0.0.1:0", "--log-level", "warn")
		}
		m := &member{endpoint: endpoint, arguments: arguments, log: filepath.Join(dir, fmt.Sprintf("m%d.log", i))}
		c.members = append(c.members, m)
		endpoints = append(endpoints, endpoint)
		c.launch(m)
	}
	c.client = connect(endpoints...)
	for _, m := range c.members {
		m.healthy()
	}
	return c
}

func connect(endpoints ...string) *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: time.Minute, Logger: zap.NewNop()})
	if err != nil {
		log.Fatal(err)
	}
	return client
}

func (c *cluster) launch(m *member) {
	output, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		log.Fatal(err)
	}
	defer output.Close()
	m.cmd = exec.Command(c.binary, m.arguments...)
	m.cmd.Env, m.cmd.Stdout, m.cmd.Stderr = peers.Environment(), output, output
	if err := m.cmd.Start(); err != nil {
		log.Fatal(err)
	}
}

// healthy returns when the member answers a linearizable read.
func (m *member) healthy() {
	client := connect(m.endpoint)
	defer client.Close()
	for until := time.Now().Add(peers.Patience); time.Now().Before(until); {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := client.Get(ctx, "health")
		cancel()
		if err == nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	text, _ := os.ReadFile(m.log)
	log.Fatalf("%s does not answer; its log: %s", m.endpoint, text)
}

// end stops a member by a signal and waits for its end.
func (m *member) end(signal syscall.Signal) {
	m.spent += cpuOf(m.cmd.Process.Pid)
	_ = m.cmd.Process.Signal(signal)
	_ = m.cmd.Wait()
}

func (c *cluster) stop() {
	c.client.Close()
	for _, m := range c.members {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
	}
}

func (c *cluster) endpoints() []string {
	var endpoints []string
	for _, m := range c.members {
		endpoints = append(endpoints, m.endpoint)
	}
	return endpoints
}

// follower is a member that does not lead.
func (c *cluster) follower() *member {
	for _, m := range c.members {
		ctx, cancel := context.WithTimeout(context.Background(), peers.Patience)
		status, err := c.client.Status(ctx, m.endpoint)
		cancel()
		if err == nil && status.Leader != 0 && status.Leader != status.Header.MemberId {
			return m
		}
	}
	log.Fatal(c.name, ": no member follows")
	return nil
}

// cpu is the user and system time of all members so far, in seconds.
func (c *cluster) cpu() float64 {
	sum := 0.0
	for _, m := range c.members {
		sum += m.spent + cpuOf(m.cmd.Process.Pid)
	}
	return sum
}

// settled returns when the members rest from what they did before, or after half a minute.
func (c *cluster) settled() {
	for range 30 {
		before := c.cpu()
		time.Sleep(time.Second)
		if c.cpu()-before < 0.1 {
			return
		}
	}
}

func cpuOf(pid int) float64 {
	seconds, err := peers.CPU(pid)
	if err != nil {
		log.Fatal(err)
	}
	return seconds
}

// memory is the resident memory of the member in the middle, in megabytes (10^6).
func (c *cluster) memory() float64 {
	var sizes []float64
	for _, m := range c.members {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.cmd.Process.Pid))
		if err != nil {
			log.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(text), "VmRSS:")
		size, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
		sizes = append(sizes, size*1024/1e6)
	}
	sort.Float64s(sizes)
	return sizes[1]
}
