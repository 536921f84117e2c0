//go:debug randseednop=0

// Package robustness holds three members of tinykv to etcd's own model of etcd: clients of etcd's robustness suite read,
// write, watch and compact while something befalls the members; then porcupine looks for an order of all operations
// that explains every answer, and the history in the members' logs must explain every event that a watcher was told of
// and every read of the past.
//
// A seed decides what befalls whom, when, under which settings, and what the clients draw; how the threads of the
// machine take turns it does not decide. See robustness.sh.
package robustness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"go.etcd.io/etcd/tests/v3/robustness/client"
	"go.etcd.io/etcd/tests/v3/robustness/identity"
	"go.etcd.io/etcd/tests/v3/robustness/report"
	"go.etcd.io/etcd/tests/v3/robustness/traffic"
	"go.etcd.io/etcd/tests/v3/robustness/validate"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

type profile struct {
	name    string
	traffic traffic.Traffic
	profile traffic.Profile
}

// profiles are those of etcd's exploratory scenarios, without their demands on the speed of the machine.
var profiles = []profile{
	{"EtcdHighTraffic", compacting{traffic.EtcdPut}, profileOf(traffic.KeyValueHigh)},
	{"EtcdTrafficDeleteLeases", compacting{traffic.EtcdPutDeleteLease}, profileOf(traffic.KeyValueMedium)},
	{"KubernetesHighTraffic", traffic.Kubernetes, profileOf(traffic.KeyValueHigh)},
	{"KubernetesLowTraffic", traffic.Kubernetes, profileOf(traffic.KeyValueMedium)},
}

func profileOf(rate traffic.KeyValue) traffic.Profile {
	rate.MinimalQPS = 0
	watch, compaction := traffic.WatchDefault, traffic.CompactionDefault
	return traffic.Profile{KeyValue: &rate, Watch: &watch, Compaction: &compaction}
}

func setting(t *testing.T, name string, otherwise int64) int64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	value, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return value
}

func TestRobustness(t *testing.T) {
	binary := os.Getenv("PEER_TINYKV")
	if binary == "" {
		t.Skip("PEER_TINYKV names no server; see robustness.sh")
	}
	runs, seed := setting(t, "RUNS", 1), setting(t, "SEED", time.Now().Unix())
	wanted := strings.Fields(strings.ReplaceAll(os.Getenv("TRAFFIC"), ",", " "))
	network, err := newNetwork()
	if err != nil {
		t.Fatal(err)
	}
	befalls := slices.DeleteFunc(slices.Clone(faults), func(f fault) bool {
		only := os.Getenv("FAULT")
		return f.isolates && !inNamespaces() || only != "" && only != f.name
	})
	if len(befalls) == 0 {
		t.Fatal("FAULT names no fault that can be made here")
	}
	t.Logf("%d runs of each traffic, seeds %d to %d, %d of %d faults", runs, seed, seed+runs-1, len(befalls), len(faults))
	for _, profile := range profiles {
		if len(wanted) > 0 && !slices.Contains(wanted, profile.name) {
			continue
		}
		row := figures{Name: profile.name, Faults: len(befalls)}
		for i := range runs {
			one := trial{binary: binary, network: network, profile: profile, seed: seed + i, fault: befalls[(seed+i)%int64(len(befalls))]}
			row.Seeds = fmt.Sprintf("%d-%d", seed, one.seed)
			var out outcome
			t.Run(fmt.Sprintf("%s/%s/%d", profile.name, one.fault.name, one.seed), func(t *testing.T) { one.run(t, &out) })
			// A run that ends early has come to nothing, and counts.
			row.add(out)
			t.Logf("%s, %s, seed %d: %s, %d operations, %d watch events", profile.name, one.fault.name, one.seed, out.verdict, out.operations, out.events)
			if path := os.Getenv("RESULTS"); path != "" {
				if err := row.write(path); err != nil {
					t.Error(err)
				}
			}
		}
		t.Logf("%s: %d runs, %d operations, %d watch events, %d violations, %d undecided, %d could not be run",
			row.Name, row.Runs, row.Operations, row.Events, row.Violations, row.Undecided, row.Broken)
	}
}

// A trial is one run.
type trial struct {
	binary  string
	network network
	profile profile
	seed    int64
	fault   fault
}

// An outcome is what a run came to.
type outcome struct {
	operations, events int
	verdict            verdict
}

type verdict int

const (
	// broken: the run did not come to its end, so there was nothing to judge.
	broken verdict = iota
	sound
	violated
	// undecided: no order of the operations was found in time, nor that there is none.
	undecided
)

func (v verdict) String() string {
	return [...]string{"could not be run", "sound", "violated", "undecided"}[v]
}

func (r trial) run(t *testing.T, out *outcome) {
	//nolint:staticcheck // etcd's packages draw from the global source
	rand.Seed(r.seed)
	random := rand.New(rand.NewSource(r.seed))
	dir := t.TempDir()
	kept := filepath.Join(os.TempDir(), "tinykv-robustness", fmt.Sprintf("%s-%s-%d", r.profile.name, r.fault.name, r.seed))
	settings := settings{Snapshot: []int{50, 100, 1000, 10_000}[random.Intn(4)], HeartbeatMs: 100, ElectionMs: 1000}
	if random.Intn(3) == 0 {
		settings.HeartbeatMs, settings.ElectionMs = 50, 500
	}
	if r.fault.lagging {
		settings.Snapshot = 50
	}
	config := zap.NewDevelopmentConfig()
	config.OutputPaths = []string{filepath.Join(dir, "runner.log")}
	logger, err := config.Build()
	if err != nil {
		t.Fatal(err)
	}
	logger.Info("settings", zap.Int64("seed", r.seed), zap.Any("settings", settings), zap.String("fault", r.fault.name))
	cluster, err := newCluster(r.binary, dir, r.network, settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.stop)
	defer func() {
		if t.Failed() {
			_ = os.RemoveAll(kept)
			if err := os.CopyFS(kept, os.DirFS(dir)); err != nil {
				t.Log(err)
			}
			t.Logf("kept in %s: logs, data, what each client saw, history.html\nagain: SEED=%d RUNS=1 TRAFFIC=%s make test-robustness",
				kept, r.seed, r.profile.name)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	if err := cluster.start(ctx); err != nil {
		t.Fatal(err)
	}
	reports := r.perform(ctx, t, logger, cluster, &scene{cluster: cluster, settings: settings, random: random})
	for _, report := range reports {
		out.operations += len(report.KeyValue)
		out.events += report.WatchEventCount()
	}
	if t.Failed() {
		return
	}
	if err := agree(ctx, cluster); err != nil {
		t.Error(err)
		out.verdict = violated
		return
	}
	out.verdict = r.judge(t, logger, cluster, dir, reports)
}

// perform has clients work, and the fault happen in the midst of it; answers what every client saw.
func (r trial) perform(ctx context.Context, t *testing.T, logger *zap.Logger, cluster *cluster, scene *scene) []report.ClientReport {
	started := time.Now()
	ids := identity.NewIDProvider()
	working, watching, own := client.NewSet(ids, started), client.NewSet(ids, started), client.NewSet(ids, started)
	scene.clients = own
	injected, newest := make(chan report.FailpointInjection, 1), make(chan int64, 1)
	before, after := scene.between(800*time.Millisecond, 1200*time.Millisecond), scene.between(800*time.Millisecond, 1200*time.Millisecond)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group errgroup.Group
	group.Go(func() error {
		defer close(injected)
		rest(ctx, before)
		start := time.Since(started)
		err := errors.Join(r.fault.inject(ctx, scene), cluster.settle(ctx))
		if err != nil {
			cancel()
			return fmt.Errorf("%s: %w", r.fault.name, err)
		}
		end := time.Since(started)
		rest(ctx, after)
		injected <- report.FailpointInjection{Start: start, End: end, Name: r.fault.name}
		return nil
	})
	processes := cluster.etcd()
	group.Go(func() error {
		defer close(newest)
		newest <- report.OperationsMaxRevision(traffic.SimulateTraffic(ctx, t, logger, processes, r.profile.profile, r.profile.traffic, injected, working))
		return nil
	})
	group.Go(func() error {
		return client.CollectClusterWatchEvents(ctx, client.CollectClusterWatchEventsParam{
			Lg: logger, Endpoints: processes.EndpointsGRPC(), MaxRevisionChan: newest, ClientSet: watching,
		})
	})
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	return slices.Concat(working.Reports(), watching.Reports(), own.Reports(), scene.happened)
}

// agree waits until all members hash alike.
func agree(ctx context.Context, cluster *cluster) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := client.CheckEndOfTestHashKV(ctx, cluster.etcd())
		if err == nil || ctx.Err() != nil {
			return err
		}
		rest(ctx, 50*time.Millisecond)
	}
}

func (r trial) judge(t *testing.T, logger *zap.Logger, cluster *cluster, dir string, reports []report.ClientReport) verdict {
	cluster.stop()
	var dirs []string
	for _, m := range cluster.members {
		dirs = append(dirs, m.config.DataDirPath)
	}
	requests, err := persisted(r.binary, dirs)
	if err != nil {
		t.Error(err)
		return violated
	}
	config := validate.Config{ExpectRevisionUnique: r.profile.traffic.ExpectUniqueRevision()}
	result := validate.ValidateAndReturnVisualize(logger, config, reports, requests, patience)
	err = result.Error()
	if err == nil {
		return sound
	}
	t.Error(err)
	saved := filepath.Join(dir, "report")
	history, problem := report.NewTestReport(logger, saved, nil, &report.TrafficDetail{ExpectUniqueRevision: config.ExpectRevisionUnique})
	if problem == nil {
		history.SetClientReports(reports)
		problem = history.SaveEtcdData()
	}
	if result.Linearization.Status == validate.Failure || result.Linearization.Status == validate.Success {
		problem = errors.Join(problem, porcupine.VisualizePath(result.Linearization.Model, result.Linearization.Info, filepath.Join(dir, "history.html")))
	}
	if lines, err := json.MarshalIndent(requests, "", " "); err == nil {
		problem = errors.Join(problem, os.WriteFile(filepath.Join(dir, "persisted.json"), lines, 0o600))
	}
	if problem != nil {
		t.Log(problem)
	}
	if status := result.Linearization.Status; status == validate.Timeout || status == validate.DeadlineExceeded {
		return undecided
	}
	return violated
}
