package robustness

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"time"

	"github.com/anishathalye/porcupine"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/tests/v3/robustness/client"
	"go.etcd.io/etcd/tests/v3/robustness/model"
	"go.etcd.io/etcd/tests/v3/robustness/report"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A scene is what a fault acts on.
type scene struct {
	cluster  *cluster
	settings settings
	random   *rand.Rand
	// clients record what they do: the model must know of every write.
	clients *client.ClientSet
	// happened are operations that no client asked for.
	happened []report.ClientReport
}

// A fault is something that befalls the cluster. It is over when inject returns; then the cluster is left to settle.
type fault struct {
	name string
	// isolates says that it needs to cut one member off from each of the others.
	isolates bool
	// lagging says that members must fall behind the log quickly.
	lagging bool
	inject  func(context.Context, *scene) error
}

var faults = []fault{
	{name: "KillLeader", inject: killLeader},
	{name: "StopLeader", inject: stopLeader},
	{name: "IsolateLeader", isolates: true, inject: isolateLeader},
	{name: "ReplaceMember", inject: replaceMember},
	{name: "KillFollower", inject: killFollower},
	{name: "PausePeers", isolates: true, inject: pausePeers},
	{name: "CatchUpBySnapshot", isolates: true, lagging: true, inject: catchUpBySnapshot},
	{name: "ExpireLease", inject: expireLease},
	{name: "LeaderIsNotHeard", isolates: true, inject: leaderIsNotHeard},
	{name: "KillAll", inject: killAll},
	{name: "CompactAndKill", inject: compactAndKill},
	{name: "LeaderHearsNobody", isolates: true, inject: leaderHearsNobody},
	{name: "HandOver", inject: handOver},
	{name: "IsolateFollower", isolates: true, inject: isolateFollower},
	{name: "BlackholePeer", inject: blackholePeer},
}

func (s *scene) between(shortest, longest time.Duration) time.Duration {
	return shortest + time.Duration(s.random.Int63n(int64(longest-shortest)))
}

func (s *scene) any() *member { return s.cluster.members[s.random.Intn(size)] }

// killed ends a member as a power cut would as far as it is concerned, and starts it again, sometimes later.
func (s *scene) killed(ctx context.Context, members ...*member) error {
	for _, m := range members {
		if err := m.Kill(); err != nil {
			return err
		}
	}
	for _, m := range members {
		if err := m.Wait(ctx); err != nil {
			return err
		}
	}
	if s.random.Intn(2) == 0 {
		rest(ctx, s.between(0, 3*time.Second))
	}
	for _, m := range members {
		if err := m.launch(); err != nil {
			return err
		}
	}
	return nil
}

func killLeader(ctx context.Context, s *scene) error {
	leader, _, err := s.cluster.leader(ctx)
	if err != nil {
		return err
	}
	return s.killed(ctx, leader)
}

func killFollower(ctx context.Context, s *scene) error {
	_, others, err := s.cluster.leader(ctx)
	if err != nil {
		return err
	}
	return s.killed(ctx, others[s.random.Intn(len(others))])
}

func killAll(ctx context.Context, s *scene) error { return s.killed(ctx, s.cluster.members...) }

// stopLeader stops the process, not its clients: it wakes up believing that it leads.
func stopLeader(ctx context.Context, s *scene) error {
	leader, _, err := s.cluster.leader(ctx)
	if err != nil {
		return err
	}
	if err := leader.Pause(); err != nil {
		return err
	}
	rest(ctx, s.between(time.Second, 4*time.Second))
	return leader.Resume()
}

// parted cuts pairs of members, for a while.
func (s *scene) parted(ctx context.Context, duration time.Duration, pairs ...[2]*member) error {
	for _, pair := range pairs {
		if err := s.cluster.network.cut(pair[0].index, pair[1].index); err != nil {
			return err
		}
	}
	rest(ctx, duration)
	return s.cluster.network.mend()
}

func away(from *member, others []*member) (pairs [][2]*member) {
	for _, other := range others {
		pairs = append(pairs, [2]*member{from, other})
	}
	return pairs
}

func towards(to *member, others []*member) (pairs [][2]*member) {
	for _, other := range others {
		pairs = append(pairs, [2]*member{other, to})
	}
	return pairs
}

// isolateLeader leaves its clients connected to it: what it answers then must not be old.
func isolateLeader(ctx context.Context, s *scene) error {
	leader, others, err := s.cluster.leader(ctx)
	if err != nil {
		return err
	}
	return s.parted(ctx, s.between(time.Second, 4*time.Second), append(away(leader, others), towards(leader, others)...)...)
}

func leaderIsNotHeard(ctx context.Context, s *scene) error {
	leader, others, err := s.cluster.leader(ctx)
	if err != nil {
		return err
	}
	return s.parted(ctx, s.between(time.Second, 4*time.Second), away(leader, others)...)
}

func leaderHearsNobody(ctx context.Context, s *scene) error {
	leader, others, err := s.cluster.leader(ctx)
	if err != nil {
		return err
	}
	return s.parted(ctx, s.between(time.Second, 4*time.Second), towards(leader, others)...)
}

func isolateFollower(ctx context.Context, s *scene) error {
	_, others, err := s.cluster.leader(ctx)
	if err != nil {
		return err
	}
	one := others[s.random.Intn(len(others))]
	var rest []*member
	for _, m := range s.cluster.members {
		if m != one {
			rest = append(rest, m)
		}
	}
	return s.parted(ctx, s.between(time.Second, 4*time.Second), append(away(one, rest), towards(one, rest)...)...)
}

// pausePeers holds everything between the members up for less than an election takes, some times.
func pausePeers(ctx context.Context, s *scene) error {
	var pairs [][2]*member
	for _, from := range s.cluster.members {
		for _, to := range s.cluster.members {
			if from != to {
				pairs = append(pairs, [2]*member{from, to})
			}
		}
	}
	for range 5 {
		if err := s.parted(ctx, s.between(50*time.Millisecond, 500*time.Millisecond), pairs...); err != nil {
			return err
		}
		rest(ctx, s.between(0, 200*time.Millisecond))
	}
	return nil
}

// blackholePeer is what etcd's runner does too: what others send to a member is lost, and its answers.
func blackholePeer(ctx context.Context, s *scene) error {
	one := s.any()
	var rest []*member
	for _, m := range s.cluster.members {
		if m != one {
			rest = append(rest, m)
		}
	}
	return s.parted(ctx, s.between(time.Second, 3*time.Second), towards(one, rest)...)
}

// catchUpBySnapshot keeps a member away until the others' logs no longer reach back to where it is.
func catchUpBySnapshot(ctx context.Context, s *scene) error {
	_, others, err := s.cluster.leader(ctx)
	if err != nil {
		return err
	}
	one := others[0]
	for _, other := range s.cluster.members {
		if other != one {
			for _, pair := range [][2]int{{one.index, other.index}, {other.index, one.index}} {
				if err := s.cluster.network.cut(pair[0], pair[1]); err != nil {
					return err
				}
			}
		}
	}
	behind := func() (int64, error) {
		asking, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		here, err := one.direct.Status(asking, one.config.ClientURL)
		if err != nil {
			return 0, err
		}
		there, err := others[1].direct.Status(asking, others[1].config.ClientURL)
		if err != nil {
			return 0, err
		}
		return there.Header.Revision - here.Header.Revision, nil
	}
	for ctx.Err() == nil {
		if by, err := behind(); err == nil && by > int64(4*s.settings.Snapshot) {
			break
		}
		rest(ctx, 50*time.Millisecond)
	}
	return errors.Join(ctx.Err(), s.cluster.network.mend())
}

// handOver moves the leadership, which a client may ask for at any time.
func handOver(ctx context.Context, s *scene) error {
	for range 4 {
		leader, others, err := s.cluster.leader(ctx)
		if err != nil {
			return err
		}
		to := others[s.random.Intn(len(others))]
		asking, cancel := context.WithTimeout(ctx, 10*time.Second)
		if status, err := to.direct.Status(asking, to.config.ClientURL); err == nil {
			// It may lose the leadership meanwhile, or not get its successor in time.
			_, _ = leader.direct.MoveLeader(asking, status.Header.MemberId)
		}
		cancel()
		rest(ctx, s.between(0, 500*time.Millisecond))
	}
	return nil
}

// replaceMember removes a member, and adds one with nothing on its disk in its place.
func replaceMember(ctx context.Context, s *scene) error {
	one := s.any()
	helper := s.cluster.members[(one.index+1)%size].direct
	list, err := insisting(ctx, helper.MemberList)
	if err != nil {
		return fmt.Errorf("list the members: %w", err)
	}
	for _, listed := range list.Members {
		if listed.Name != one.config.Name {
			continue
		}
		remove := func(ctx context.Context, _ ...clientv3.OpOption) (*clientv3.MemberRemoveResponse, error) {
			response, err := helper.MemberRemove(ctx, listed.ID)
			if errors.Is(err, rpctypes.ErrMemberNotFound) {
				return response, nil // an attempt that seemed to fail had done it
			}
			return response, err
		}
		if _, err := insisting(ctx, remove); err != nil {
			return fmt.Errorf("remove %s: %w", listed.Name, err)
		}
	}
	if err := errors.Join(one.Kill(), one.Wait(ctx), os.RemoveAll(one.config.DataDirPath)); err != nil {
		return err
	}
	add := func(ctx context.Context, _ ...clientv3.OpOption) (*clientv3.MemberAddResponse, error) {
		response, err := helper.MemberAdd(ctx, []string{one.config.PeerURL.String()})
		if errors.Is(err, rpctypes.ErrPeerURLExist) || errors.Is(err, rpctypes.ErrMemberExist) {
			return response, nil
		}
		return response, err
	}
	if _, err := insisting(ctx, add); err != nil {
		return fmt.Errorf("add %s: %w", one.config.Name, err)
	}
	for i, argument := range one.config.Args {
		if argument == "--initial-cluster-state=new" {
			one.config.Args[i] = "--initial-cluster-state=existing"
		}
	}
	return one.launch()
}

// insisting calls again while the answer is that the cluster is not ready for it, or no answer.
func insisting[T any](ctx context.Context, call func(context.Context, ...clientv3.OpOption) (T, error)) (T, error) {
	for {
		calling, cancel := context.WithTimeout(ctx, 10*time.Second)
		answer, err := call(calling)
		cancel()
		code := status.Code(err)
		var known rpctypes.EtcdError
		if errors.As(err, &known) {
			code = known.Code()
		}
		again := code == codes.Unavailable || code == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded)
		if err == nil || !again || ctx.Err() != nil {
			return answer, err
		}
		rest(ctx, 50*time.Millisecond)
	}
}

// recording is a client of all members whose requests become part of the history.
func (s *scene) recording() (*client.RecordingClient, error) {
	var endpoints []string
	for _, m := range s.cluster.members {
		endpoints = append(endpoints, m.config.ClientURL)
	}
	return s.clients.NewClient(endpoints)
}

// compactAndKill ends a member while it sweeps.
func compactAndKill(ctx context.Context, s *scene) error {
	recording, err := s.recording()
	if err != nil {
		return err
	}
	leader, _, err := s.cluster.leader(ctx)
	if err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	status, err := leader.direct.Status(asking, leader.config.ClientURL)
	if err != nil {
		return err
	}
	// Its outcome is the model's to judge; a newer compaction may have come first.
	_, _ = recording.Compact(asking, status.Header.Revision)
	return s.killed(ctx, s.any())
}

// expireLease writes a key by a short lease and waits until it is gone, while the leader is killed sometimes. A lease
// must not end before its time, however the leadership moves.
func expireLease(ctx context.Context, s *scene) error {
	recording, err := s.recording()
	if err != nil {
		return err
	}
	// A grant that fails, a write that fails, a lease that ends before it is used: all that is part of the history too.
	var began time.Duration
	var lease *clientv3.LeaseGrantResponse
	for lease == nil {
		began = time.Since(s.clients.BaseTime())
		asking, cancel := context.WithTimeout(ctx, 5*time.Second)
		lease, err = recording.LeaseGrant(asking, 2)
		cancel()
		if ctx.Err() != nil {
			return fmt.Errorf("no lease: %w", err)
		}
	}
	ends := began + time.Duration(lease.TTL)*time.Second
	asking, cancel := context.WithTimeout(ctx, 5*time.Second)
	_, _ = recording.PutWithLease(asking, "leased", fmt.Sprint(s.clients.IdentityProvider().NewRequestID()), int64(lease.ID))
	cancel()
	if s.random.Intn(2) == 0 {
		if err := killLeader(ctx, s); err != nil {
			return err
		}
	}
	for {
		left, err := s.any().direct.TimeToLive(ctx, lease.ID)
		if err == nil && left.TTL == -1 {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("lease %x of %d s has not ended: %w", lease.ID, lease.TTL, ctx.Err())
		}
		rest(ctx, 50*time.Millisecond)
	}
	now := time.Since(s.clients.BaseTime())
	if now < ends {
		return fmt.Errorf("lease %x of %d s ended %v early", lease.ID, lease.TTL, ends-now)
	}
	// What the cluster did, in the form of a request without an answer: at some time after the lease was due.
	s.happened = append(s.happened, report.ClientReport{
		ClientID: s.clients.IdentityProvider().NewClientID(),
		KeyValue: []porcupine.Operation{{
			ClientId: s.clients.IdentityProvider().NewStreamID(),
			Input:    model.EtcdRequest{Type: model.LeaseRevoke, LeaseRevoke: &model.LeaseRevokeRequest{LeaseID: int64(lease.ID)}},
			Call:     ends.Nanoseconds(),
			Output:   model.MaybeEtcdResponse{Error: "the lease ran out"},
			Return:   now.Nanoseconds(),
		}},
	})
	return nil
}
