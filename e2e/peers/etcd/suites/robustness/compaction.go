package robustness

import (
	"context"
	"time"

	"go.etcd.io/etcd/tests/v3/robustness/client"
	"go.etcd.io/etcd/tests/v3/robustness/random"
	"go.etcd.io/etcd/tests/v3/robustness/traffic"
)

// compacting is a traffic of etcd's whose compactions stand a member that has just been started and is behind: etcd's own
// loop panics when a member's revision is older than the last compaction.
type compacting struct{ traffic.Traffic }

func (c compacting) RunCompactLoop(ctx context.Context, recording *client.RecordingClient, param traffic.RunCompactLoopParam) {
	var last int64 = 2
	ticker := time.NewTicker(param.Period)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-param.Finish:
			return
		case <-ticker.C:
		}
		asking, cancel := context.WithTimeout(ctx, traffic.RequestTimeout)
		status, err := recording.Status(asking, recording.Endpoints()[0])
		cancel()
		if err != nil || status.Header.Revision < last {
			continue
		}
		// Some revisions are compacted already, and some are yet to come.
		revision := random.RandRange(last, status.Header.Revision+5)
		if _, err := recording.Compact(ctx, revision); err == nil {
			last = revision
		}
	}
}
