package differential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"testing"
	"time"

	"aistack/e2e/peers/etcd/peers"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	electionpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	lockpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// call is a request of one RPC.
type call struct {
	rpc, what string
	request   proto.Message
}

// tokenTTL is how long a token lives that nobody uses.
const tokenTTL = 5 * time.Second

const (
	theirs = 77 // a lease that a key of root's lives by
	hers   = 78 // one that a key of ann's lives by
)

func put(key string, lease int64, prev bool) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte("x"), Lease: lease, PrevKv: prev}
}

func span(key, end string) *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end)}
}

func ofPut(request *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: request}}
}

func ofRange(request *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: request}}
}

func ofDelete(request *pb.DeleteRangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: request}}
}

func ofTxn(request *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: request}}
}

// calls are all RPCs of a server: on ann's keys, on others', and past the end of hers.
func calls() []call {
	var all []call
	add := func(rpc, what string, request proto.Message) { all = append(all, call{rpc, what, request}) }
	for _, key := range []string{"ann/a", "drop/a", "other"} {
		for _, rpc := range []string{"KV/Range", "KV/RangeStream"} {
			add(rpc, key, span(key, ""))
			add(rpc, key+" and all after it", span(key, "\x00"))
			add(rpc, key+" serializable", &pb.RangeRequest{Key: []byte(key), Serializable: true})
			add(rpc, key+" counted", &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte("p"), CountOnly: true})
		}
		add("KV/Put", key, put(key, 0, false))
		add("KV/Put", key+" with what was before", put(key, 0, true))
		add("KV/Put", key+" by a lease of root's keys", put(key, theirs, false))
		add("KV/Put", key+" by a lease of ann's keys", put(key, hers, false))
		for _, prev := range []bool{false, true} {
			gone := &pb.DeleteRangeRequest{Key: []byte(key + "/none"), PrevKv: prev}
			add("KV/DeleteRange", fmt.Sprint(key, prev), gone)
			add("KV/DeleteRange", fmt.Sprint(key, " and after it ", prev), &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte("\x00"), PrevKv: prev})
			for _, op := range []*pb.RequestOp{
				ofPut(put(key, 0, prev)), ofPut(put(key, theirs, prev)), ofDelete(gone), ofRange(span(key, "")), ofRange(span(key, "\x00")),
			} {
				what := fmt.Sprint(op, prev)
				add("KV/Txn", "then "+what, &pb.TxnRequest{Success: []*pb.RequestOp{op}})
				add("KV/Txn", "else "+what, &pb.TxnRequest{Failure: []*pb.RequestOp{op}})
				inner := ofTxn(&pb.TxnRequest{Success: []*pb.RequestOp{op}})
				add("KV/Txn", "nested "+what, &pb.TxnRequest{Success: []*pb.RequestOp{inner}})
				add("KV/Txn", "nested, else "+what, &pb.TxnRequest{Success: []*pb.RequestOp{ofTxn(&pb.TxnRequest{Failure: []*pb.RequestOp{inner}})}})
			}
		}
		compare := &pb.Compare{Key: []byte(key), Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte("x")}}
		add("KV/Txn", "compare "+key, &pb.TxnRequest{Compare: []*pb.Compare{compare}})
		add("KV/Txn", "nested compare "+key, &pb.TxnRequest{Success: []*pb.RequestOp{ofTxn(&pb.TxnRequest{Compare: []*pb.Compare{compare}})}})
		for what, end := range map[string]string{"alone": "", "and all after it": "\x00", "to p": "p"} {
			create := &pb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte(end), StartRevision: 1, PrevKv: true}
			add("Watch/Watch", key+" "+what, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
		}
		add("Lock/Lock", key, &lockpb.LockRequest{Name: []byte(key + "/lock")})
		add("Lock/Unlock", key, &lockpb.UnlockRequest{Key: []byte(key + "/none")})
		add("Election/Campaign", key, &electionpb.CampaignRequest{Name: []byte(key + "/chair"), Value: []byte("x")})
		add("Election/Leader", key, &electionpb.LeaderRequest{Name: []byte(key + "/nobody")})
		leader := &electionpb.LeaderKey{Name: []byte(key + "/chair"), Key: []byte(key + "/chair/none"), Rev: 1, Lease: 1}
		add("Election/Proclaim", key, &electionpb.ProclaimRequest{Leader: leader, Value: []byte("y")})
		add("Election/Resign", key, &electionpb.ResignRequest{Leader: leader})
	}
	all = append(all, call{"Watch/Watch", "everything", &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{Key: []byte("\x00"), RangeEnd: []byte("\x00")},
	}}})
	add("Election/Observe", "ann/a", &electionpb.LeaderRequest{Name: []byte("ann/a/chair")})
	for what, id := range map[string]int64{"root's": theirs, "ann's": hers, "no": 4711} {
		add("Lease/LeaseTimeToLive", what, &pb.LeaseTimeToLiveRequest{ID: id})
		add("Lease/LeaseTimeToLive", what+" with keys", &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
		add("Lease/LeaseKeepAlive", what, &pb.LeaseKeepAliveRequest{ID: id})
	}
	add("Lease/LeaseRevoke", "root's", &pb.LeaseRevokeRequest{ID: theirs})
	add("Lease/LeaseRevoke", "no", &pb.LeaseRevokeRequest{ID: 4711})
	add("Lease/LeaseGrant", "taken", &pb.LeaseGrantRequest{ID: theirs, TTL: 60})
	add("Lease/LeaseLeases", "", &pb.LeaseLeasesRequest{})
	add("KV/Compact", "", &pb.CompactionRequest{Revision: 1_000_000})
	add("Cluster/MemberAdd", "", &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:1"}, IsLearner: true})
	add("Cluster/MemberRemove", "", &pb.MemberRemoveRequest{ID: 4711})
	add("Cluster/MemberUpdate", "", &pb.MemberUpdateRequest{ID: 4711, PeerURLs: []string{"http://127.0.0.1:1"}})
	add("Cluster/MemberPromote", "", &pb.MemberPromoteRequest{ID: 4711})
	add("Cluster/MemberList", "", &pb.MemberListRequest{})
	add("Cluster/MemberList", "linearizable", &pb.MemberListRequest{Linearizable: true})
	for _, action := range []pb.AlarmRequest_AlarmAction{pb.AlarmRequest_GET, pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_DEACTIVATE} {
		add("Maintenance/Alarm", action.String(), &pb.AlarmRequest{Action: action, MemberID: 4711, Alarm: pb.AlarmType_CORRUPT})
	}
	add("Maintenance/Status", "", &pb.StatusRequest{})
	add("Maintenance/Defragment", "", &pb.DefragmentRequest{})
	add("Maintenance/Hash", "", &pb.HashRequest{})
	add("Maintenance/HashKV", "", &pb.HashKVRequest{})
	add("Maintenance/Snapshot", "", &pb.SnapshotRequest{})
	add("Maintenance/MoveLeader", "", &pb.MoveLeaderRequest{TargetID: 4711})
	add("Maintenance/Downgrade", "", &pb.DowngradeRequest{Action: pb.DowngradeRequest_VALIDATE, Version: "3.6.0"})
	add("Auth/AuthStatus", "", &pb.AuthStatusRequest{})
	add("Auth/AuthEnable", "", &pb.AuthEnableRequest{})
	add("Auth/Authenticate", "right", &pb.AuthenticateRequest{Name: "ann", Password: "ann"})
	add("Auth/Authenticate", "wrong", &pb.AuthenticateRequest{Name: "ann", Password: "root"})
	add("Auth/Authenticate", "nobody", &pb.AuthenticateRequest{Name: "zoe", Password: "zoe"})
	add("Auth/UserList", "", &pb.AuthUserListRequest{})
	add("Auth/RoleList", "", &pb.AuthRoleListRequest{})
	for _, name := range []string{"ann", "root", "zoe"} {
		add("Auth/UserGet", name, &pb.AuthUserGetRequest{Name: name})
		add("Auth/RoleGet", name, &pb.AuthRoleGetRequest{Role: name})
	}
	// Of what is not there: whoever may, changes nothing.
	add("Auth/UserAdd", "taken", &pb.AuthUserAddRequest{Name: "ann", Password: "x"})
	add("Auth/UserDelete", "", &pb.AuthUserDeleteRequest{Name: "zoe"})
	add("Auth/UserChangePassword", "", &pb.AuthUserChangePasswordRequest{Name: "zoe", Password: "x"})
	add("Auth/UserGrantRole", "", &pb.AuthUserGrantRoleRequest{User: "zoe", Role: "root"})
	add("Auth/UserRevokeRole", "", &pb.AuthUserRevokeRoleRequest{Name: "zoe", Role: "root"})
	add("Auth/RoleAdd", "taken", &pb.AuthRoleAddRequest{Name: "ann"})
	add("Auth/RoleDelete", "", &pb.AuthRoleDeleteRequest{Role: "zoe"})
	add("Auth/RoleGrantPermission", "", &pb.AuthRoleGrantPermissionRequest{Name: "zoe", Perm: &authpb.Permission{Key: []byte("other")}})
	add("Auth/RoleRevokePermission", "", &pb.AuthRoleRevokePermissionRequest{Role: "zoe", Key: []byte("other")})
	add("Auth/AuthDisable", "", &pb.AuthDisableRequest{})
	return all
}

// methods are the RPCs that etcd declares, by "service/name".
func methods() map[string]protoreflect.MethodDescriptor {
	found := map[string]protoreflect.MethodDescriptor{}
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			switch service.FullName().Parent() {
			case "etcdserverpb", "v3lockpb", "v3electionpb":
				for j := range service.Methods().Len() {
					method := service.Methods().Get(j)
					found[fmt.Sprintf("%s/%s", service.Name(), method.Name())] = method
				}
			}
		}
		return true
	})
	return found
}

// told sends a call and answers what came of it: the status, and of a watch whether it stands.
func told(ctx context.Context, conn *grpc.ClientConn, method protoreflect.MethodDescriptor, request proto.Message) string {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	if err != nil {
		return err.Error()
	}
	answer := kind.New().Interface()
	name := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
	if !method.IsStreamingServer() {
		return said(conn.Invoke(ctx, name, request, answer))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: method.IsStreamingClient()}, name)
	if err != nil {
		return said(err)
	}
	if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
		return said(err)
	}
	if !method.IsStreamingClient() {
		_ = stream.CloseSend()
	}
	if err := stream.RecvMsg(answer); err != nil {
		return said(err)
	}
	if watch, ok := answer.(*pb.WatchResponse); ok {
		return fmt.Sprintf("created %v, canceled %v: %s", watch.Created, watch.Canceled, watch.CancelReason)
	}
	return "OK"
}

func said(err error) string {
	if err == nil {
		return "OK"
	}
	return fmt.Sprintf("%s: %s", status.Code(err), status.Convert(err).Message())
}

// users makes root, ann, who may read and write below ann/, and only write below drop/, and their leases and keys.
func users(t *testing.T, conn *grpc.ClientConn) {
	ctx, cancel := context.WithTimeout(context.Background(), peers.Patience)
	defer cancel()
	auth, kv, lease := pb.NewAuthClient(conn), pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: theirs, TTL: 100_000}))
	must(lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: hers, TTL: 100_000}))
	must(kv.Put(ctx, put("other", theirs, false)))
	must(kv.Put(ctx, put("ann/leased", hers, false)))
	for _, name := range []string{"root", "ann"} {
		must(auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: name, Password: name}))
		must(auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: name}))
		must(auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: name, Role: name}))
	}
	permissions := []*authpb.Permission{
		{PermType: authpb.Permission_READWRITE, Key: []byte("ann/"), RangeEnd: []byte("ann0")},
		{PermType: authpb.Permission_WRITE, Key: []byte("drop/"), RangeEnd: []byte("drop0")},
	}
	for _, permission := range permissions {
		must(auth.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: "ann", Perm: permission}))
	}
	must(auth.AuthEnable(ctx, &pb.AuthEnableRequest{}))
}

// as runs a call for somebody; what proves who that is, is new.
func as(caller, expired string, conn *grpc.ClientConn, method protoreflect.MethodDescriptor, request proto.Message) string {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), peers.Patience)
		token := map[string]string{"nobody": "", "nonsense": "nonsense", "expired": expired}[caller]
		fresh := caller == "root" || caller == "ann"
		if fresh {
			response, err := pb.NewAuthClient(conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: caller, Password: caller})
			if err != nil {
				cancel()
				return "authenticate: " + said(err)
			}
			token = response.Token
		}
		if token != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "token", token)
		}
		answer := told(ctx, conn, method, request)
		cancel()
		// On a machine that stalls, even a new one may have run out.
		if !fresh || !strings.Contains(answer, "invalid auth token") {
			return answer
		}
	}
}

// expire answers a token of root's that has run out.
func expire(t *testing.T, conn *grpc.ClientConn) string {
	ctx, cancel := context.WithTimeout(context.Background(), peers.Patience)
	defer cancel()
	response, err := pb.NewAuthClient(conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: "root"})
	if err != nil {
		t.Fatal(err)
	}
	// Each use makes it last longer, so it is not asked after before.
	for wait := 2 * tokenTTL; ; wait *= 2 {
		time.Sleep(wait)
		_, err := pb.NewKVClient(conn).Range(metadata.AppendToOutgoingContext(ctx, "token", response.Token), span("other", ""))
		if status.Code(err) == codes.Unauthenticated {
			return response.Token
		}
		if ctx.Err() != nil {
			t.Fatalf("a token does not run out: %v", err)
		}
	}
}

func TestEveryRPCIsGuardedAsByEtcd(t *testing.T) {
	declared := methods()
	all := calls()
	asked := map[string]bool{}
	for _, one := range all {
		asked[one.rpc] = true
		if declared[one.rpc] == nil {
			t.Fatalf("etcd declares no %s", one.rpc)
		}
	}
	for rpc := range declared {
		if !asked[rpc] {
			t.Errorf("%s is not asked", rpc)
		}
	}
	flags := []string{"--bcrypt-cost=4", fmt.Sprintf("--auth-token-ttl=%d", int(tokenTTL.Seconds()))}
	var conns []*grpc.ClientConn
	var expired []string
	for _, server := range []*peers.Server{peers.Etcd(t, flags...), peers.Tinykv(t, flags...)} {
		conn, err := grpc.NewClient(strings.TrimPrefix(server.Endpoint, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		users(t, conn)
		conns, expired = append(conns, conn), append(expired, expire(t, conn))
	}
	outcomes := map[string]int{}
	for _, caller := range []string{"nobody", "nonsense", "expired", "ann", "root"} {
		for _, one := range all {
			etcd := as(caller, expired[0], conns[0], declared[one.rpc], one.request)
			tinykv := as(caller, expired[1], conns[1], declared[one.rpc], one.request)
			outcomes[caller+": "+strings.SplitN(etcd, ":", 2)[0]]++
			// What root may, is looked into elsewhere: here, that it may.
			if etcd == tinykv || caller == "root" && !forbids(etcd) && !forbids(tinykv) {
				continue
			}
			// Those two of etcd's services are clients of the others, and lose the code of an error on the way; a stream just ends.
			lossy := strings.HasPrefix(one.rpc, "Lock/") || strings.HasPrefix(one.rpc, "Election/")
			if lossy && (etcd == "Unknown: EOF" && forbids(tinykv) || without(etcd) == without(tinykv)) {
				continue
			}
			t.Errorf("%s, %s %s:\n  etcd    %s\n  tinykv  %s", caller, one.rpc, one.what, etcd, tinykv)
		}
	}
	var lines []string
	for outcome, count := range outcomes {
		lines = append(lines, fmt.Sprintf("%s %d", outcome, count))
	}
	sort.Strings(lines)
	t.Logf("%d RPCs, %d calls each; of etcd's answers: %s", len(declared), len(all), strings.Join(lines, ", "))
}

// forbids tells whether an answer is about who asked.
func forbids(answer string) bool {
	return strings.Contains(answer, "permission denied") || strings.Contains(answer, "Unauthenticated") || strings.Contains(answer, "user name is empty")
}

// without is an answer without the code.
func without(answer string) string {
	_, message, _ := strings.Cut(answer, ": ")
	return message
}
