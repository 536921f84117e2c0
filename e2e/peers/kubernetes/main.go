// Drill of kube-apiserver on three members of a store, one of them killed again and again: objects of six kinds are created, changed,
// listed in pages and deleted while watches look on. No event may be lost, repeated or out of order; what the API server answers
// with 5xx is counted, to be laid beside what the same drill shows on etcd.
//
//	go run . --store etcd=PROGRAM --store tinykv=PROGRAM --plane ../../../hack/plane/plane.sh [--objects 500] [--every 20s] [--rounds 1]
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Settings of a drill.
type settings struct {
	plane, kinds string
	objects      int
	rounds       int
	every        time.Duration
	down         time.Duration
	writers      int
}

// Report is what one store showed.
type Report struct {
	Store     string         `json:"store"`
	Version   string         `json:"version"`
	Objects   int            `json:"objects"`
	Kills     int            `json:"leaders_killed"`
	Seconds   float64        `json:"seconds"`
	Requests  int            `json:"requests"`
	Errors    map[string]int `json:"errors"`
	Samples   []string       `json:"error_samples"`
	Events    int            `json:"events"`
	Restarts  int            `json:"watches_begun_again"`
	Expired   int            `json:"watches_expired"`
	Faults    []string       `json:"faults"`
	LongestMS int64          `json:"longest_request_ms"`
}

func main() {
	var with settings
	var stores []string
	flag.Func("store", "NAME=PROGRAM, a store to run; may be given twice", func(value string) error {
		if !strings.Contains(value, "=") {
			return errors.New("write NAME=PROGRAM")
		}
		stores = append(stores, value)
		return nil
	})
	flag.StringVar(&with.plane, "plane", "../../../hack/plane/plane.sh", "script that starts a control plane")
	flag.StringVar(&with.kinds, "kinds", "../../../crds/generated", "folder of the custom kinds")
	flag.IntVar(&with.objects, "objects", 500, "objects of each kind")
	flag.IntVar(&with.rounds, "rounds", 1, "times that all objects are created and deleted")
	flag.DurationVar(&with.every, "every", 20*time.Second, "time from one kill of the leader to the next; 0 = never")
	flag.DurationVar(&with.down, "down", 3*time.Second, "time that a killed member stays away")
	flag.IntVar(&with.writers, "writers", 8, "requests at once")
	out := flag.String("out", "", "file that gets a line of JSON for each store")
	flag.Parse()
	if len(stores) == 0 {
		fmt.Fprintln(os.Stderr, "error: name a store, as in --store tinykv=target/release/tinykv")
		os.Exit(2)
	}
	failed := false
	for _, store := range stores {
		name, program, _ := strings.Cut(store, "=")
		report, err := drill(with, name, program)
		if err != nil {
			fmt.Fprintf(os.Stderr, "error: %s: %v\n", name, err)
			os.Exit(1)
		}
		show(report)
		if *out != "" {
			if err := keep(*out, report); err != nil {
				fmt.Fprintln(os.Stderr, "error:", err)
				os.Exit(1)
			}
		}
		failed = failed || len(report.Faults) > 0
	}
	if failed {
		os.Exit(1)
	}
}

func keep(path string, report *Report) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(file).Encode(report); err != nil {
		return errors.Join(err, file.Close())
	}
	return file.Close()
}

func show(report *Report) {
	fmt.Printf("%s %s: %d objects in %.0f s, %d requests, the leader killed %d times; longest request %d ms\n",
		report.Store, report.Version, report.Objects, report.Seconds, report.Requests, report.Kills, report.LongestMS)
	fmt.Printf("  answers that were errors: %v\n", report.Errors)
	for _, sample := range report.Samples {
		fmt.Println("    for instance", sample)
	}
	fmt.Printf("  %d events watched, %d watches begun again, %d expired; lost, repeated or out of order: %d\n",
		report.Events, report.Restarts, report.Expired, len(report.Faults))
	for i, fault := range report.Faults {
		if i == 20 {
			fmt.Printf("  … and %d more\n", len(report.Faults)-i)
			break
		}
		fmt.Println("  FAULT", fault)
	}
}

// drill runs the whole drill on one store.
func drill(with settings, name, program string) (*Report, error) {
	dir, err := os.MkdirTemp("", "kubernetes-drill-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	store, err := start(program, filepath.Join(dir, "store"))
	if err != nil {
		return nil, err
	}
	defer store.stop()
	config, stop, err := plane(with, filepath.Join(dir, "plane"), store.clients())
	if err != nil {
		return nil, err
	}
	defer stop()
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	report := &Report{Store: name, Version: store.version(), Objects: with.objects * len(kinds) * with.rounds}
	work := &work{client: client, with: with, errors: map[string]int{}}
	var watches []*watched
	for _, kind := range kinds {
		watch, err := begin(ctx, client, kind)
		if err != nil {
			return nil, err
		}
		watches = append(watches, watch)
	}
	begun := time.Now()
	killer := store.kills(ctx, with.every, with.down)
	for round := range with.rounds {
		if err := work.round(ctx, round); err != nil {
			return nil, err
		}
	}
	report.Seconds = time.Since(begun).Seconds()
	report.Kills = killer.end()
	if killer.err != nil {
		return nil, killer.err
	}
	for _, watch := range watches {
		report.Faults = append(report.Faults, watch.judge(with)...)
		report.Events += watch.count()
		report.Restarts += watch.restarts
		report.Expired += watch.expired
	}
	report.Faults = append(report.Faults, work.faults...)
	report.Requests, report.Errors, report.Samples = work.requests, work.errors, work.samples
	report.LongestMS = work.longest.Milliseconds()
	return report, nil
}

// plane starts the control plane on the store; the function that it answers stops it.
func plane(with settings, dir, clients string) (*rest.Config, func(), error) {
	up := exec.Command(with.plane, "up", dir)
	up.Env = append(os.Environ(), "PLANE_ETCD="+clients, "PLANE_CONTROLLERS=1")
	up.Stderr = os.Stderr
	said, err := up.Output()
	stop := func() { _ = exec.Command(with.plane, "down", dir).Run() }
	if err != nil {
		stop()
		return nil, nil, fmt.Errorf("%s up: %w", with.plane, err)
	}
	kubeconfig := filepath.Join(dir, "kubeconfig")
	_, path, _ := strings.Cut(strings.TrimSpace(string(said)), "PATH=")
	bin, _, _ := strings.Cut(path, ":")
	for _, arguments := range [][]string{
		{"apply", "--server-side", "-f", with.kinds},
		{"wait", "--for=condition=Established", "--timeout=5m", "crd", "--all"},
		{"wait", "--for=create", "--timeout=5m", "serviceaccount/default"}, // no pod without it
	} {
		command := exec.Command(filepath.Join(bin, "kubectl"), append([]string{"--kubeconfig", kubeconfig}, arguments...)...)
		if text, err := command.CombinedOutput(); err != nil {
			stop()
			return nil, nil, fmt.Errorf("kubectl %s: %w: %s", strings.Join(arguments, " "), err, text)
		}
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		stop()
		return nil, nil, err
	}
	// The drill itself decides how fast it asks.
	config.QPS = -1
	return config, stop, nil
}
