package differential

import (
	"context"
	"fmt"
	"math/rand"
	"strings"
	"testing"
	"time"

	"aistack/e2e/peers/etcd/peers"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// guarded is a server and what proves each user to it.
type guarded struct {
	side
	auth        pb.AuthClient
	maintenance pb.MaintenanceClient
}

func connectGuarded(t *testing.T, server *peers.Server) guarded {
	conn, err := grpc.NewClient(strings.TrimPrefix(server.Endpoint, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return guarded{connect(t, server), pb.NewAuthClient(conn), pb.NewMaintenanceClient(conn)}
}

type authStep struct {
	name string
	run  func(context.Context, guarded) (proto.Message, error)
}

func (g *generator) user() string { return []string{"root", "ann", "ben", "eve"}[g.Intn(4)] }
func (g *generator) role() string { return []string{"root", "r1", "r2", "r3"}[g.Intn(4)] }

// administration is a change of users and roles, or a question about them.
func (g *generator) administration() authStep {
	user, role := g.user(), g.role()
	key, end := g.span()
	perm := &authpb.Permission{PermType: authpb.Permission_Type(g.Intn(3)), Key: key, RangeEnd: end}
	table := []authStep{
		{"user add " + user, func(ctx context.Context, s guarded) (proto.Message, error) {
			return s.auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: user, Password: user, Options: &authpb.UserAddOptions{NoPassword: user == "eve"}})
		}},
		{"user delete " + user, func(ctx context.Context, s guarded) (proto.Message, error) {
			return s.auth.UserDelete(ctx, &pb.AuthUserDeleteRequest{Name: user})
		}},
		{"user get " + user, func(ctx context.Context, s guarded) (proto.Message, error) {
			return s.auth.UserGet(ctx, &pb.AuthUserGetRequest{Name: user})
		}},
		{"user list", func(ctx context.Context, s guarded) (proto.Message, error) {
			return s.auth.UserList(ctx, &pb.AuthUserListRequest{})
		}},
		{"passwd " + user, func(ctx context.Context, s guarded) (proto.Message, error) {
			return s.auth.UserChangePassword(ctx, &pb.AuthUserChangePasswordRequest{Name: user, Password: user})
		}},
		{"grant " + user + " " + role, func(ctx context.Context, s guarded) (proto.Message, error) {
			return s.auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: user, Role: role})
		}},
		{"revoke " + user + " " + role, func(ctx context.Context, s guarded) (proto.Message, error) {
			return s.auth.UserRevokeRole(ctx, &pb.AuthUserRevokeRoleRequest{Name: user, Role: role})
		}},
		{"role add " + role, func(ctx context.Context, s guarded) (proto.Message, error) {
			return s.auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: role})
		}},
		{"role delete " + role, func(ctx context.Context, s guarded) (proto.Message, error) {
			return s.auth.RoleDelete(ctx, &pb.AuthRoleDeleteRequest{Role: role})
		}},
		{"role get " + role, func(ctx context.Context, s guarded) (proto.Message, error) {
			return s.auth.RoleGet(ctx, &pb.AuthRoleGetRequest{Role: role})
		}},
		{"role list", func(ctx context.Context, s guarded) (proto.Message, error) {
			return s.auth.RoleList(ctx, &pb.AuthRoleListRequest{})
		}},
		{"permit " + role + " " + plain(perm, nil), func(ctx context.Context, s guarded) (proto.Message, error) {
			return s.auth.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: perm})
		}},
		{"forbid " + role + " " + plain(perm, nil), func(ctx context.Context, s guarded) (proto.Message, error) {
			return s.auth.RoleRevokePermission(ctx, &pb.AuthRoleRevokePermissionRequest{Role: role, Key: key, RangeEnd: end})
		}},
		{"status", func(ctx context.Context, s guarded) (proto.Message, error) {
			return s.auth.AuthStatus(ctx, &pb.AuthStatusRequest{})
		}},
		{"enable", func(ctx context.Context, s guarded) (proto.Message, error) {
			return s.auth.AuthEnable(ctx, &pb.AuthEnableRequest{})
		}},
		{"enable", func(ctx context.Context, s guarded) (proto.Message, error) {
			return s.auth.AuthEnable(ctx, &pb.AuthEnableRequest{})
		}},
	}
	if g.Intn(60) == 0 {
		return authStep{"disable", func(ctx context.Context, s guarded) (proto.Message, error) {
			return s.auth.AuthDisable(ctx, &pb.AuthDisableRequest{})
		}}
	}
	return table[g.Intn(len(table))]
}

// use is an operation that users and roles may forbid.
func (g *generator) use() authStep {
	if g.Intn(12) == 0 {
		return authStep{"defragment", func(ctx context.Context, s guarded) (proto.Message, error) {
			return s.maintenance.Defragment(ctx, &pb.DefragmentRequest{})
		}}
	}
	if g.Intn(12) == 0 {
		return authStep{"alarms", func(ctx context.Context, s guarded) (proto.Message, error) {
			return s.maintenance.Alarm(ctx, &pb.AlarmRequest{})
		}}
	}
	name, run := g.step()
	return authStep{name, func(ctx context.Context, s guarded) (proto.Message, error) { return run(ctx, s.side) }}
}

func TestUsersAreHeldToTheirRolesAsByEtcd(t *testing.T) {
	seeds, steps := number("DIFFERENTIAL_SEEDS", 6), number("DIFFERENTIAL_STEPS", 600)
	first := number("DIFFERENTIAL_FIRST_SEED", 1)
	for seed := first; seed < first+seeds; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			sides := []guarded{
				connectGuarded(t, peers.Etcd(t, "--bcrypt-cost=4", "--auth-token-ttl=3600")),
				connectGuarded(t, peers.Tinykv(t, "--bcrypt-cost=4", "--auth-token-ttl=3600")),
			}
			g := &generator{rand.New(rand.NewSource(int64(seed))), 1}
			denied := 0
			for count := range steps {
				caller := []string{"", "root", "root", "root", "ann", "ann", "ben", "eve", "?"}[g.Intn(9)]
				step := g.use()
				if g.Intn(2) == 0 {
					step = g.administration()
				}
				if count < 4 {
					// Somebody can be in charge from the start.
					caller = ""
					step = []authStep{
						{"add root", func(ctx context.Context, s guarded) (proto.Message, error) {
							return s.auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "root", Password: "root"})
						}},
						{"add ann", func(ctx context.Context, s guarded) (proto.Message, error) {
							return s.auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "ann", Password: "ann"})
						}},
						{"grant root", func(ctx context.Context, s guarded) (proto.Message, error) {
							return s.auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
						}},
						{"enable", func(ctx context.Context, s guarded) (proto.Message, error) {
							return s.auth.AuthEnable(ctx, &pb.AuthEnableRequest{})
						}},
					}[count]
				}
				var answers [2]string
				for i, s := range sides {
					ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
					switch caller {
					case "":
					case "?":
						ctx = metadata.AppendToOutgoingContext(ctx, "token", "nonsense")
					default:
						response, err := s.auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: caller, Password: caller})
						if err != nil {
							answers[i] = "authenticate: " + plain(nil, err) + "; "
						} else {
							ctx = metadata.AppendToOutgoingContext(ctx, "token", response.Token)
						}
					}
					message, err := step.run(ctx, s)
					cancel()
					answers[i] += plain(message, err)
				}
				if answers[0] != answers[1] {
					t.Fatalf("step %d as %q: %s\n  etcd    %s\n  tinykv  %s", count, caller, step.name, answers[0], answers[1])
				}
				if strings.Contains(answers[0], "PermissionDenied") {
					denied++
				}
			}
			if denied == 0 {
				t.Fatal("nobody was ever forbidden anything")
			}
			t.Logf("%d steps, %d of them forbidden", steps, denied)
		})
	}
}
