// Command bench measures puts against etcd and tinykv in turns, both with fsync on, and prints
// one JSON line a workload. Wall-clock rates on a shared machine wobble; the servers' CPU time a
// put does not, so both are reported, as medians over the runs.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"aistack/e2e/peers/etcd/peers"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

type server struct {
	name, endpoint string
	cmd            *exec.Cmd
}

func port() int {
	port, err := peers.FreePort()
	if err != nil {
		log.Fatal(err)
	}
	return port
}

func start(name, binary, dir string) *server {
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", port()), fmt.Sprintf("http://127.0.0.1:%d", port())
	arguments := []string{"--data-dir", dir, "--listen-client-urls", client}
	if name == "etcd" {
		arguments = append(arguments, "--advertise-client-urls", client, "--listen-peer-urls", peer,
			"--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer, "--log-level", "error")
	} else {
		arguments = append(arguments, "--admin-listen", "127.0.0.1:0", "--log-level", "warn")
	}
	cmd := exec.Command(binary, arguments...)
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	return &server{name, client, cmd}
}

// cpu is user and system time of the server so far, in seconds.
func (s *server) cpu() float64 {
	seconds, err := peers.CPU(s.cmd.Process.Pid)
	if err != nil {
		log.Fatal(err)
	}
	return seconds
}

type result struct {
	rate, p50, cpu float64
}

func measure(s *server, clients int, duration time.Duration) result {
	connections := make([]*clientv3.Client, min(clients, 10))
	for i := range connections {
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{s.endpoint}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
		if err != nil {
			log.Fatal(err)
		}
		defer client.Close()
		connections[i] = client
	}
	value := strings.Repeat("v", 256)
	put := func(client *clientv3.Client, key int64) error {
		_, err := client.Put(context.Background(), fmt.Sprintf("%08d", key%100000), value)
		return err
	}
	for _, client := range connections {
		if err := put(client, 0); err != nil {
			log.Fatal(err)
		}
	}
	var count atomic.Int64
	var lock sync.Mutex
	var latencies []float64
	var running sync.WaitGroup
	before, began := s.cpu(), time.Now()
	end := began.Add(duration)
	for i := range clients {
		running.Add(1)
		go func() {
			defer running.Done()
			var own []float64
			for time.Now().Before(end) {
				at := time.Now()
				if err := put(connections[i%len(connections)], count.Add(1)); err != nil {
					log.Fatal(s.name, ": ", err)
				}
				own = append(own, time.Since(at).Seconds()*1e3)
			}
			lock.Lock()
			latencies = append(latencies, own...)
			lock.Unlock()
		}()
	}
	running.Wait()
	elapsed := time.Since(began).Seconds()
	sort.Float64s(latencies)
	puts := float64(len(latencies))
	return result{puts / elapsed, latencies[len(latencies)/2], (s.cpu() - before) / puts * 1e6}
}

func median(values []float64) float64 {
	sort.Float64s(values)
	return values[len(values)/2]
}

func main() {
	tinykv := flag.String("tinykv", "../../../target/release/tinykv", "program")
	etcd := flag.String("etcd", os.ExpandEnv("$HOME/.cache/aistack/etcd/etcd"), "program")
	runs := flag.Int("runs", 5, "runs of each server, in turns")
	seconds := flag.Int("seconds", 4, "length of a run")
	dir := flag.String("dir", os.TempDir(), "where the data goes; both on one disk")
	commit := flag.String("commit", "", "commit to note")
	machine := flag.String("machine", "", "machine to note")
	flag.Parse()
	work, err := os.MkdirTemp(*dir, "bench-kv")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(work)
	servers := []*server{start("tinykv", *tinykv, work+"/tinykv"), start("etcd", *etcd, work+"/etcd")}
	defer func() {
		for _, s := range servers {
			_ = s.cmd.Process.Kill()
			_ = s.cmd.Wait()
		}
	}()
	for _, clients := range []int{1, 100} {
		figures := map[string][3][]float64{}
		for range *runs {
			for _, s := range servers {
				r := measure(s, clients, time.Duration(*seconds)*time.Second)
				all := figures[s.name]
				all[0], all[1], all[2] = append(all[0], r.rate), append(all[1], r.p50), append(all[2], r.cpu)
				figures[s.name] = all
				fmt.Fprintf(os.Stderr, "%-6s %3d clients  %8.0f/s  p50 %6.2f ms  server CPU %6.1f us/put\n", s.name, clients, r.rate, r.p50, r.cpu)
			}
		}
		for i, unit := range []string{"puts/s", "ms p50", "us server CPU/put"} {
			ours, peer := median(figures["tinykv"][i]), median(figures["etcd"][i])
			line, _ := json.Marshal(map[string]any{
				"id": "A6", "what": fmt.Sprintf("put, %d client(s), key 8, value 256, fsync on, one node", clients),
				"ours": round(ours), "peer": round(peer), "unit": unit, "ratio": round(ours / peer), "peer_version": "etcd 3.7.3",
				"machine": *machine, "commit": *commit, "date": time.Now().UTC().Format("2006-01-02"), "runs": *runs,
			})
			fmt.Println(string(line))
		}
	}
}

func round(value float64) float64 {
	rounded, _ := strconv.ParseFloat(strconv.FormatFloat(value, 'g', 4, 64), 64)
	return rounded
}
