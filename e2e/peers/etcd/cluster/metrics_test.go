package cluster

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// What etcd's own dashboards and alerts ask for (contrib/mixin in its repository, 3.6.8).
var asked = []string{
	"etcd_disk_backend_commit_duration_seconds", "etcd_disk_wal_fsync_duration_seconds", "etcd_mvcc_db_total_size_in_bytes",
	"etcd_mvcc_db_total_size_in_use_in_bytes", "etcd_network_client_grpc_received_bytes_total",
	"etcd_network_client_grpc_sent_bytes_total", "etcd_network_peer_received_bytes_total",
	"etcd_network_peer_round_trip_time_seconds", "etcd_network_peer_sent_bytes_total",
	"etcd_network_peer_sent_failures_total", "etcd_server_has_leader", "etcd_server_leader_changes_seen_total",
	"etcd_server_proposals_applied_total", "etcd_server_proposals_committed_total", "etcd_server_proposals_failed_total",
	"etcd_server_proposals_pending", "etcd_server_quota_backend_bytes", "grpc_server_handled_total",
	"grpc_server_started_total", "process_resident_memory_bytes",
}

type scrape map[string]*dto.MetricFamily

// scraped reads a member's figures as Prometheus's own library does.
func scraped(t *testing.T, m *member) scrape {
	answer, err := http.Get("http://" + m.client + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(answer.Body)
	if err != nil {
		t.Fatalf("%s: %v", m.name, err)
	}
	return families
}

// sum adds up the samples of a name that bear the labels.
func (s scrape) sum(name string, labels ...string) (total float64) {
	for _, metric := range s[name].GetMetric() {
		fits := 0
		for _, label := range metric.GetLabel() {
			if slices.Contains(labels, label.GetName()+"="+label.GetValue()) {
				fits++
			}
		}
		if fits == len(labels) {
			total += metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
		}
	}
	return total
}

func TestTheDashboardsOfEtcdFindEveryFigureTheyAskFor(t *testing.T) {
	cluster := three(t)
	leader, others := cluster.leading(t, cluster.client)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	before := scraped(t, leader)
	for range 10 {
		if _, err := leader.direct.Put(ctx, "key", strings.Repeat("x", 1000)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := leader.direct.Get(ctx, "key", clientv3.WithRev(1<<40)); err == nil {
		t.Fatal("a read of the future was answered")
	}
	watching, stop := context.WithCancel(ctx)
	if _, open := <-leader.direct.Watch(watching, "key", clientv3.WithRev(2)); !open {
		t.Fatal("the watch ended")
	}
	const put, watch = "grpc_service=etcdserverpb.KV", "grpc_service=etcdserverpb.Watch"
	for _, m := range cluster.members {
		found := scraped(t, m)
		for _, name := range asked {
			if len(found[name].GetMetric()) == 0 {
				t.Errorf("%s: no %s among %d: %v", m.name, name, len(found), slices.Sorted(maps.Keys(found)))
			}
		}
		if changes := found.sum("etcd_server_leader_changes_seen_total"); changes < 1 {
			t.Errorf("%s has seen %v leaders", m.name, changes)
		}
	}
	after := scraped(t, leader)
	grew := func(least float64, name string, labels ...string) {
		t.Helper()
		if by := after.sum(name, labels...) - before.sum(name, labels...); by < least {
			t.Errorf("%s%v grew by %v, and %v was to be expected", name, labels, by, least)
		}
	}
	grew(10, "grpc_server_started_total", put, "grpc_method=Put", "grpc_type=unary")
	grew(10, "grpc_server_handled_total", put, "grpc_method=Put", "grpc_code=OK")
	grew(1, "grpc_server_handled_total", put, "grpc_method=Range", "grpc_code=OutOfRange")
	grew(1, "grpc_server_started_total", watch, "grpc_type=bidi_stream")
	grew(10_000, "etcd_network_client_grpc_received_bytes_total")
	// The watch tells of all ten.
	grew(10_000, "etcd_network_client_grpc_sent_bytes_total")
	grew(20_000, "etcd_network_peer_sent_bytes_total")
	grew(100, "etcd_network_peer_received_bytes_total")
	for _, m := range others {
		if came := scraped(t, m).sum("etcd_network_peer_received_bytes_total"); came < 10_000 {
			t.Errorf("%v bytes came to %s", came, m.name)
		}
	}
	open := after.sum("grpc_server_started_total", watch) - after.sum("grpc_server_handled_total", watch)
	if open < 1 {
		t.Errorf("%v watches are open", open)
	}
	// Heartbeats go on, and a watch whose client has gone is over.
	stop()
	for {
		now := scraped(t, leader)
		if now.sum("grpc_server_started_total", watch) == now.sum("grpc_server_handled_total", watch) &&
			now.sum("etcd_network_peer_round_trip_time_seconds") >= 2 {
			break
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("open: %v of %v", now.sum("grpc_server_handled_total", watch), now.sum("grpc_server_started_total", watch))
		}
	}
}
