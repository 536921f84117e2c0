package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// patience is for what must happen, however slow and busy the machine is.
const patience = 5 * time.Minute

// store is a cluster of three; every program that takes etcd's flags will do.
type store struct {
	members []*member
	lock    sync.Mutex
}

type member struct {
	name, client string
	arguments    []string
	program, log string
	command      *exec.Cmd
}

func address() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return "http://" + listener.Addr().String(), nil
}

func start(program, dir string) (*store, error) {
	store := &store{}
	var clients, peers, initial []string
	for i := range 3 {
		client, err := address()
		if err != nil {
			return nil, err
		}
		peer, err := address()
		if err != nil {
			return nil, err
		}
		clients, peers = append(clients, client), append(peers, peer)
		initial = append(initial, fmt.Sprintf("m%d=%s", i, peer))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for i := range 3 {
		name := fmt.Sprintf("m%d", i)
		store.members = append(store.members, &member{name: name, client: clients[i], program: program,
			log: filepath.Join(dir, name+".log"),
			arguments: []string{"--name", name, "--data-dir", filepath.Join(dir, name),
				"--listen-client-urls", clients[i], "--advertise-client-urls", clients[i],
				"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i],
				"--initial-cluster", strings.Join(initial, ","), "--listen-metrics-urls", "http://127.0.0.1:0"}})
	}
	for _, member := range store.members {
		if err := member.start(); err != nil {
			store.stop()
			return nil, err
		}
	}
	for _, member := range store.members {
		if err := member.healthy(); err != nil {
			store.stop()
			return nil, err
		}
	}
	return store, nil
}

func (s *store) clients() string {
	var all []string
	for _, member := range s.members {
		all = append(all, member.client)
	}
	return strings.Join(all, ",")
}

func (s *store) stop() {
	s.lock.Lock()
	defer s.lock.Unlock()
	for _, member := range s.members {
		member.kill()
	}
}

func (m *member) start() error {
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	m.command = exec.Command(m.program, m.arguments...)
	m.command.Stdout, m.command.Stderr = log, log
	return m.command.Start()
}

func (m *member) kill() {
	if m.command != nil && m.command.Process != nil {
		_ = m.command.Process.Kill()
		_ = m.command.Wait()
		m.command = nil
	}
}

func (m *member) healthy() error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		answer, err := http.Get(m.client + "/health")
		if err != nil {
			continue
		}
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			return nil
		}
	}
	text, _ := os.ReadFile(m.log)
	return fmt.Errorf("%s %s is not healthy; its log:\n%s", m.program, m.name, text[max(0, len(text)-2000):])
}

// post calls the store's JSON gateway.
func (m *member) post(path string, into any) error {
	client := http.Client{Timeout: 10 * time.Second}
	answer, err := client.Post(m.client+path, "application/json", strings.NewReader("{}"))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

type status struct {
	Header struct {
		Member string `json:"member_id"`
	} `json:"header"`
	Version string `json:"version"`
	Leader  string `json:"leader"`
}

func (s *store) version() string {
	var status status
	if err := s.members[0].post("/v3/maintenance/status", &status); err != nil {
		return "?"
	}
	return status.Version
}

// leader is the member that says so of itself.
func (s *store) leader() *member {
	for _, member := range s.members {
		var status status
		if member.post("/v3/maintenance/status", &status) == nil && status.Leader != "" && status.Leader == status.Header.Member {
			return member
		}
	}
	return nil
}

// killer kills the leader again and again.
type killer struct {
	cancel context.CancelFunc
	done   chan struct{}
	kills  int
	err    error
}

func (s *store) kills(ctx context.Context, every, down time.Duration) *killer {
	ctx, cancel := context.WithCancel(ctx)
	killer := &killer{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(killer.done)
		if every <= 0 {
			return
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(every):
			}
			leader := s.leader()
			if leader == nil {
				continue
			}
			s.lock.Lock()
			leader.kill()
			time.Sleep(down)
			killer.err = leader.start()
			s.lock.Unlock()
			if killer.err == nil {
				killer.err = leader.healthy()
			}
			if killer.err != nil {
				return
			}
			killer.kills++
		}
	}()
	return killer
}

// end stops the killing, with every member back.
func (k *killer) end() int {
	k.cancel()
	<-k.done
	return k.kills
}
