// Command three measures TinyKV beside etcd, three members of each on this machine, fsync on, in turns (B1 to B10), and
// prints one JSON line a figure. etcd's own load generator drives what it has a workload for. Rates on a shared machine
// wobble, and the generator takes half of it; the servers' CPU time an operation, summed over the members, does not.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"
)

// figures are what one run of a workload came to, by unit.
type figures map[string]float64

type workload struct {
	id, what string
	// Whether it brings its own clusters, since it stops members or wants much data.
	alone bool
	// How many times it runs, where not as often as was asked for.
	repeats int
	// Whether it goes on with the clusters of the one before it, where that ran.
	goesOn bool
	// prepare is called once for each cluster.
	prepare func(b *bench, c *cluster)
	run     func(b *bench, c *cluster) figures
}

type bench struct {
	tool  string
	scale float64
	dir   string
}

func (b *bench) of(count int) int { return max(int(float64(count)*b.scale), 1) }

// tooled runs etcd's load generator and answers its rate, its latencies and the servers' CPU time an operation.
func (b *bench) tooled(c *cluster, operations int, arguments ...string) figures {
	before := c.cpu()
	// Progress bars go to the terminal it has not got.
	text, err := exec.Command(b.tool, append([]string{"--endpoints=" + strings.Join(c.endpoints(), ",")}, arguments...)...).CombinedOutput()
	if err != nil {
		log.Fatalf("%s: benchmark %v: %v\n%s", c.name, arguments, err, text)
	}
	spent := c.cpu() - before
	if strings.Contains(string(text), "Error distribution") {
		log.Fatalf("%s: benchmark %v met errors:\n%s", c.name, arguments, text)
	}
	found := figures{"us server CPU": spent / float64(operations) * 1e6}
	for unit, pattern := range map[string]string{"/s": `Requests/sec:\s+([0-9.]+)`, "ms p50": `50% in ([0-9.]+) secs`, "ms p99": `99% in ([0-9.]+) secs`} {
		// The tool tells only of percentiles that it has seen.
		if number, ok := last(text, pattern); ok {
			found[unit] = number
		}
	}
	found["ms p50"], found["ms p99"] = found["ms p50"]*1e3, found["ms p99"]*1e3
	return found
}

// last is the number in the last match of a pattern.
func last(text []byte, pattern string) (float64, bool) {
	found := regexp.MustCompile(pattern).FindAllSubmatch(text, -1)
	if len(found) == 0 {
		return 0, false
	}
	number, err := strconv.ParseFloat(string(found[len(found)-1][1]), 64)
	return number, err == nil
}

func median(values []float64) float64 {
	values = append([]float64(nil), values...)
	sort.Float64s(values)
	return values[len(values)/2]
}

func round(value float64) float64 {
	rounded, _ := strconv.ParseFloat(strconv.FormatFloat(value, 'g', 4, 64), 64)
	return rounded
}

func main() {
	tinykv := flag.String("tinykv", "../../../target/release/tinykv", "program")
	etcd := flag.String("etcd", os.ExpandEnv("$HOME/.cache/aistack/etcd/etcd"), "program")
	tool := flag.String("benchmark", os.ExpandEnv("$HOME/.cache/aistack/etcd/benchmark"), "etcd's load generator")
	runs := flag.Int("runs", 3, "runs of each cluster, in turns")
	scale := flag.Float64("scale", 1, "part of the operations to do")
	only := flag.String("only", "", "ids of workloads, with commas between; all without")
	dir := flag.String("dir", os.TempDir(), "where the data goes; of both, on one disk")
	commit := flag.String("commit", "", "commit to note")
	machine := flag.String("machine", "", "machine to note")
	flag.Parse()
	work, err := os.MkdirTemp(*dir, "bench-three")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(work)
	b := &bench{tool: *tool, scale: *scale, dir: work}
	binaries := []struct{ name, path string }{{"tinykv", *tinykv}, {"etcd", *etcd}}
	var clusters []*cluster
	stop := func() {
		for _, c := range clusters {
			c.stop()
			_ = os.RemoveAll(c.dir)
		}
		clusters = nil
	}
	defer stop()
	for number, load := range workloads() {
		if *only != "" && !strings.Contains(","+*only+",", ","+load.id+",") {
			stop()
			continue
		}
		if !load.goesOn {
			stop()
		}
		if len(clusters) == 0 {
			for _, binary := range binaries {
				c := startCluster(binary.name, binary.path, fmt.Sprintf("%s/%d-%s", work, number, binary.name))
				if load.prepare != nil {
					load.prepare(b, c)
				}
				clusters = append(clusters, c)
			}
		}
		repeats := *runs
		if load.alone {
			repeats = 1
		}
		if load.repeats != 0 {
			repeats = load.repeats
		}
		print(load, b.measure(load, clusters, repeats), *machine, *commit, repeats)
	}
}

// measure runs a workload on each cluster in turns; it answers what was seen, by cluster and unit.
func (b *bench) measure(load workload, clusters []*cluster, repeats int) map[string]map[string][]float64 {
	all := map[string]map[string][]float64{}
	for range repeats {
		for _, c := range clusters {
			if all[c.name] == nil {
				all[c.name] = map[string][]float64{}
			}
			began := time.Now()
			found := load.run(b, c)
			line := []string{}
			for unit, value := range found {
				all[c.name][unit] = append(all[c.name][unit], value)
				line = append(line, fmt.Sprintf("%g %s", round(value), unit))
			}
			sort.Strings(line)
			fmt.Fprintf(os.Stderr, "%s %-6s %5.1fs  %s\n", load.id, c.name, time.Since(began).Seconds(), strings.Join(line, "  "))
		}
	}
	return all
}

func print(load workload, all map[string]map[string][]float64, machine, commit string, runs int) {
	var units []string
	for unit := range all["tinykv"] {
		units = append(units, unit)
	}
	sort.Strings(units)
	for _, unit := range units {
		ours, peer := median(all["tinykv"][unit]), median(all["etcd"][unit])
		line, _ := json.Marshal(map[string]any{
			"id": load.id, "what": load.what + "; three members, fsync on", "ours": round(ours), "peer": round(peer), "unit": unit,
			"ratio": round(ours / peer), "peer_version": "etcd 3.7.3", "machine": machine, "commit": commit,
			"date": time.Now().UTC().Format("2006-01-02"), "runs": runs,
		})
		fmt.Println(string(line))
	}
}
