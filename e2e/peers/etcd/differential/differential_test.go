// Package differential gives the same seeded operations to etcd and to tinykv through etcd's own
// client, and compares every answer: contents, errors, and revisions.
package differential

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"aistack/e2e/peers/etcd/peers"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

func number(variable string, fallback int) int {
	if value, err := strconv.Atoi(os.Getenv(variable)); err == nil {
		return value
	}
	return fallback
}

type side struct {
	name  string
	kv    pb.KVClient
	lease pb.LeaseClient
	watch pb.WatchClient
}

func connect(t *testing.T, server *peers.Server) side {
	conn, err := grpc.NewClient(strings.TrimPrefix(server.Endpoint, "http://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return side{server.Name, pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewWatchClient(conn)}
}

// plain is a message without what differs by nature: ids of cluster and member, and the term.
func plain(message proto.Message, err error) string {
	if err != nil {
		return fmt.Sprintf("%v: %s", status.Code(err), status.Convert(err).Message())
	}
	text, err := protojson.Marshal(message)
	if err != nil {
		return err.Error()
	}
	var tree any
	_ = json.Unmarshal(text, &tree)
	scrub(tree, "clusterId", "memberId", "raftTerm")
	text, _ = json.Marshal(tree)
	return string(text)
}

// scrub takes fields out of a tree.
func scrub(tree any, names ...string) {
	switch node := tree.(type) {
	case map[string]any:
		for _, name := range names {
			delete(node, name)
		}
		for _, child := range node {
			scrub(child, names...)
		}
	case []any:
		for _, child := range node {
			scrub(child, names...)
		}
	}
}

type generator struct {
	*rand.Rand
	revision int64
}

func (g *generator) key() []byte {
	return []byte(fmt.Sprintf("k/%c%s", 'a'+g.Intn(8), strings.Repeat("\x00", g.Intn(8)/7)))
}

func (g *generator) span() (key, end []byte) {
	key = g.key()
	switch g.Intn(6) {
	case 0, 1:
		return key, nil
	case 2:
		return []byte("k/"), []byte("k0")
	case 3:
		return key, []byte{0}
	case 4:
		return []byte{0}, []byte{0}
	default:
		return key, g.key()
	}
}

func (g *generator) someRevision() int64 {
	switch g.Intn(5) {
	case 0:
		return g.Int63n(g.revision + 3)
	case 1:
		return g.revision - g.Int63n(20)
	default:
		return 0
	}
}

func (g *generator) rangeRequest() *pb.RangeRequest {
	key, end := g.span()
	request := &pb.RangeRequest{Key: key, RangeEnd: end, Revision: g.someRevision(), Serializable: g.Intn(4) == 0}
	if g.Intn(3) == 0 {
		request.Limit = g.Int63n(5)
	}
	request.KeysOnly = g.Intn(5) == 0
	request.CountOnly = g.Intn(6) == 0
	if g.Intn(4) == 0 {
		request.SortOrder = pb.RangeRequest_SortOrder(g.Intn(4))
		// Only by what is unique, so that there is one right order.
		request.SortTarget = []pb.RangeRequest_SortTarget{pb.RangeRequest_KEY, 0, 9}[g.Intn(3)]
	}
	if g.Intn(6) == 0 {
		request.MinModRevision, request.MaxModRevision = g.Int63n(g.revision+1), g.Int63n(g.revision+9)
	}
	if g.Intn(8) == 0 {
		request.MinCreateRevision, request.MaxCreateRevision = g.Int63n(g.revision+1), g.Int63n(g.revision+9)
	}
	if g.Intn(60) == 0 {
		request.Key = nil
	}
	return request
}

func (g *generator) putRequest() *pb.PutRequest {
	request := &pb.PutRequest{Key: g.key(), Value: []byte(fmt.Sprintf("v%d", g.Intn(5))), PrevKv: g.Intn(3) == 0}
	switch g.Intn(12) {
	case 0:
		request.Lease = int64(1 + g.Intn(4))
	case 1:
		request.IgnoreValue, request.Value = true, nil
	case 2:
		request.IgnoreLease = true
	case 3:
		request.IgnoreValue = g.Intn(2) == 0
	}
	return request
}

func (g *generator) deleteRequest() *pb.DeleteRangeRequest {
	key, end := g.span()
	if g.Intn(3) > 0 {
		end = nil
	}
	return &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: g.Intn(2) == 0}
}

func (g *generator) compare() *pb.Compare {
	compare := &pb.Compare{Key: g.key(), Result: pb.Compare_CompareResult(g.Intn(4)), Target: pb.Compare_CompareTarget(g.Intn(5))}
	if g.Intn(5) == 0 {
		_, compare.RangeEnd = g.span()
	}
	switch compare.Target {
	case pb.Compare_VERSION:
		compare.TargetUnion = &pb.Compare_Version{Version: g.Int63n(3)}
	case pb.Compare_CREATE:
		compare.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: g.Int63n(g.revision + 1)}
	case pb.Compare_MOD:
		compare.TargetUnion = &pb.Compare_ModRevision{ModRevision: g.Int63n(2) * g.Int63n(g.revision+1)}
	case pb.Compare_VALUE:
		compare.TargetUnion = &pb.Compare_Value{Value: []byte(fmt.Sprintf("v%d", g.Intn(5)))}
	case pb.Compare_LEASE:
		compare.TargetUnion = &pb.Compare_Lease{Lease: g.Int63n(5)}
	}
	return compare
}

func (g *generator) ops(depth int) (ops []*pb.RequestOp) {
	for count := g.Intn(4); count > 0; count-- {
		switch kind := g.Intn(8); {
		case kind < 3:
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.rangeRequest()}})
		case kind < 6:
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: g.putRequest()}})
		case kind == 6:
			request := g.deleteRequest()
			// "From here on" escapes etcd's own check for overlaps; tinykv refuses it.
			if len(request.RangeEnd) == 1 {
				request.RangeEnd = nil
			}
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: request}})
		case depth > 0:
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: g.txn(depth - 1)}})
		}
	}
	return ops
}

func (g *generator) txn(depth int) *pb.TxnRequest {
	request := &pb.TxnRequest{Success: g.ops(depth), Failure: g.ops(depth)}
	for count := g.Intn(3); count > 0; count-- {
		request.Compare = append(request.Compare, g.compare())
	}
	return request
}

// deletesAcrossNested tells of transactions in which one nested transaction writes what another
// deletes. etcd allows some of these; tinykv keeps one change of a key in a revision.
func deletesAcrossNested(request *pb.TxnRequest) bool {
	var nested, deletes int
	var walk func(ops []*pb.RequestOp, depth int)
	walk = func(ops []*pb.RequestOp, depth int) {
		for _, op := range ops {
			if txn := op.GetRequestTxn(); txn != nil {
				nested++
				walk(txn.Success, depth+1)
				walk(txn.Failure, depth+1)
			}
			if op.GetRequestDeleteRange() != nil && depth > 0 {
				deletes++
			}
		}
	}
	walk(request.Success, 0)
	walk(request.Failure, 0)
	return nested > 1 && deletes > 0
}

type step func(ctx context.Context, s side) (proto.Message, error)

func (g *generator) step() (string, step) {
	switch kind := g.Intn(100); {
	case kind < 35:
		request := g.putRequest()
		return "put " + plain(request, nil), func(ctx context.Context, s side) (proto.Message, error) { return s.kv.Put(ctx, request) }
	case kind < 60:
		request := g.rangeRequest()
		return "range " + plain(request, nil), func(ctx context.Context, s side) (proto.Message, error) { return s.kv.Range(ctx, request) }
	case kind < 68:
		request := g.deleteRequest()
		return "delete " + plain(request, nil), func(ctx context.Context, s side) (proto.Message, error) {
			return s.kv.DeleteRange(ctx, request)
		}
	case kind < 88:
		request := g.txn(2)
		for deletesAcrossNested(request) {
			request = g.txn(2)
		}
		return "txn " + plain(request, nil), func(ctx context.Context, s side) (proto.Message, error) { return s.kv.Txn(ctx, request) }
	case kind < 90:
		request := &pb.CompactionRequest{Revision: g.revision - g.Int63n(60) + 2, Physical: g.Intn(2) == 0}
		return "compact " + plain(request, nil), func(ctx context.Context, s side) (proto.Message, error) {
			return s.kv.Compact(ctx, request)
		}
	case kind < 94:
		request := &pb.LeaseGrantRequest{ID: int64(1 + g.Intn(4)), TTL: []int64{600, 1, -3, 1 << 40}[g.Intn(4)]}
		// A lease that runs out does so at another moment on each side.
		if request.TTL < 600 {
			request.TTL = 900
		}
		return "grant " + plain(request, nil), func(ctx context.Context, s side) (proto.Message, error) {
			return s.lease.LeaseGrant(ctx, request)
		}
	case kind < 96:
		request := &pb.LeaseRevokeRequest{ID: int64(1 + g.Intn(4))}
		return "revoke " + plain(request, nil), func(ctx context.Context, s side) (proto.Message, error) {
			return s.lease.LeaseRevoke(ctx, request)
		}
	case kind < 98:
		request := &pb.LeaseTimeToLiveRequest{ID: int64(1 + g.Intn(4)), Keys: true}
		return "ttl " + plain(request, nil), func(ctx context.Context, s side) (proto.Message, error) {
			response, err := s.lease.LeaseTimeToLive(ctx, request)
			if err == nil {
				sort.Slice(response.Keys, func(a, b int) bool { return string(response.Keys[a]) < string(response.Keys[b]) })
				if response.TTL > 0 {
					response.TTL = 1
				}
			}
			return response, err
		}
	default:
		return "leases", func(ctx context.Context, s side) (proto.Message, error) {
			response, err := s.lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
			if err == nil {
				sort.Slice(response.Leases, func(a, b int) bool { return response.Leases[a].ID < response.Leases[b].ID })
			}
			return response, err
		}
	}
}

// ask sends progress requests until one is answered: etcd drops them while a watcher lags.
func ask(ctx context.Context, stream pb.Watch_WatchClient) {
	for ctx.Err() == nil {
		_ = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
		time.Sleep(50 * time.Millisecond)
	}
}

func (g *generator) watchRequest() *pb.WatchCreateRequest {
	key, end := g.span()
	request := &pb.WatchCreateRequest{Key: key, RangeEnd: end, StartRevision: g.revision - g.Int63n(80), PrevKv: g.Intn(2) == 0}
	if g.Intn(4) == 0 {
		request.Filters = []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_FilterType(g.Intn(2))}
	}
	if g.Intn(8) == 0 {
		request.StartRevision = -1
	}
	if g.Intn(6) == 0 {
		request.WatchId = 7
	}
	return request
}

func TestAnswersAreThoseOfEtcd(t *testing.T) {
	seeds, steps := number("DIFFERENTIAL_SEEDS", 6), number("DIFFERENTIAL_STEPS", 600)
	first := number("DIFFERENTIAL_FIRST_SEED", 1)
	for seed := first; seed < first+seeds; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			sides := []side{connect(t, peers.Etcd(t)), connect(t, peers.Tinykv(t))}
			g := &generator{rand.New(rand.NewSource(int64(seed))), 1}
			for count := 0; count < steps; count++ {
				name, run := g.step()
				var answers [2]string
				for i, s := range sides {
					ctx, cancel := context.WithTimeout(context.Background(), peers.Patience)
					message, err := run(ctx, s)
					cancel()
					answers[i] = plain(message, err)
				}
				if answers[0] != answers[1] {
					t.Fatalf("step %d at revision %d: %s\n  etcd    %s\n  tinykv  %s", count, g.revision, name, answers[0], answers[1])
				}
				now, err := sides[0].kv.Range(context.Background(), &pb.RangeRequest{Key: []byte("none")})
				if err != nil {
					t.Fatal(err)
				}
				g.revision = now.Header.Revision
				if count%40 == 39 {
					request := g.watchRequest()
					etcd, tinykv := watched(t, sides[0], request, g.revision), watched(t, sides[1], request, g.revision)
					if strings.Join(etcd, "\n") != strings.Join(tinykv, "\n") {
						t.Fatalf("step %d at revision %d: watch %s\n  etcd    %s\n  tinykv  %s", count, g.revision, plain(request, nil),
							strings.Join(etcd, "\n          "), strings.Join(tinykv, "\n          "))
					}
				}
			}
		})
	}
}

// watched collects what a watcher that starts in the past is told up to the revision given.
func watched(t *testing.T, s side, request *pb.WatchCreateRequest, revision int64) []string {
	ctx, cancel := context.WithTimeout(context.Background(), peers.Patience)
	defer cancel()
	stream, err := s.watch.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	create := proto.Clone(request).(*pb.WatchCreateRequest)
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		t.Fatal(err)
	}
	asking, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { ask(asking, stream); close(done) }()
	defer func() { stop(); <-done }()
	var told []string
	for {
		response, err := stream.Recv()
		if err != nil {
			t.Fatalf("%s: watch %v: %v", s.name, request, err)
		}
		if response.Created || response.Canceled {
			told = append(told, fmt.Sprintf("created=%v canceled=%v compact=%d reason=%q id=%d", response.Created,
				response.Canceled, response.CompactRevision, response.CancelReason, response.WatchId))
			if response.Canceled {
				return told
			}
		}
		for _, event := range response.Events {
			told = append(told, plain(event, nil))
		}
		if response.WatchId == clientv3.InvalidWatchID && len(response.Events) == 0 && response.Header.Revision >= revision {
			return told
		}
	}
}
