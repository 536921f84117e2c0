package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// as is a client of one member that says who it is.
func as(t *testing.T, m *member, user, password string) *clientv3.Client {
	var client *clientv3.Client
	insist(t, user+" at "+m.name, func(context.Context) error {
		var err error
		client, err = clientv3.New(clientv3.Config{
			Endpoints: []string{m.client}, Username: user, Password: password, DialTimeout: 20 * time.Second, Logger: zap.NewNop(),
		})
		return err
	})
	t.Cleanup(func() { client.Close() })
	return client
}

// told asks until the answer is about what was asked, and not about a machine that stalls or a leader that changed.
func told(t *testing.T, ask func(ctx context.Context) error) error {
	deadline := time.Now().Add(5 * time.Minute)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		err := ask(ctx)
		cancel()
		transient := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, rpctypes.ErrNoLeader) ||
			errors.Is(err, rpctypes.ErrLeaderChanged) || errors.Is(err, rpctypes.ErrTimeout) ||
			err != nil && (strings.Contains(err.Error(), "Unavailable") || strings.Contains(err.Error(), "DeadlineExceeded"))
		if !transient {
			return err
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// expect holds what was asked to an error of etcd's, or to none.
func expect(t *testing.T, what string, expected error, ask func(ctx context.Context) error) {
	t.Helper()
	if err := told(t, ask); !errors.Is(err, expected) {
		t.Fatalf("%s: %v, expected %v", what, err, expected)
	}
}

// enforced holds a member to what ann's role permits.
func enforced(t *testing.T, m *member, password string) {
	t.Helper()
	ann := as(t, m, "ann", password)
	expect(t, m.name+": ann writes what is hers", nil, func(ctx context.Context) error {
		_, err := ann.Put(ctx, "ann/"+m.name, "x")
		return err
	})
	expect(t, m.name+": ann writes what is not", rpctypes.ErrPermissionDenied, func(ctx context.Context) error {
		_, err := ann.Put(ctx, "other", "x")
		return err
	})
	expect(t, m.name+": ann reads what is not", rpctypes.ErrPermissionDenied, func(ctx context.Context) error {
		_, err := ann.Get(ctx, "other")
		return err
	})
	expect(t, m.name+": ann reads it where it is", rpctypes.ErrPermissionDenied, func(ctx context.Context) error {
		_, err := ann.Get(ctx, "other", clientv3.WithSerializable())
		return err
	})
	expect(t, m.name+": nobody in particular writes", rpctypes.ErrUserEmpty, func(ctx context.Context) error {
		_, err := m.direct.Put(ctx, "ann/x", "x")
		return err
	})
	expect(t, m.name+": nobody in particular reads", rpctypes.ErrUserEmpty, func(ctx context.Context) error {
		_, err := m.direct.Get(ctx, "ann/x")
		return err
	})
}

// leading waits for a leader, and answers it and the others. Where users are asked for, `by` is one.
func (c *trio) leading(t *testing.T, by *clientv3.Client) (leader *member, others []*member) {
	deadline := time.Now().Add(5 * time.Minute)
	for leader == nil {
		if time.Now().After(deadline) {
			t.Fatal("nobody leads")
		}
		for _, m := range c.members {
			asking := m.direct
			if by != nil {
				asking = by
			}
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			status, err := asking.Status(ctx, m.client)
			cancel()
			if err == nil && status.Leader == status.Header.MemberId {
				leader = m
			}
		}
	}
	for _, m := range c.members {
		if m != leader {
			others = append(others, m)
		}
	}
	return leader, others
}

func TestUsersOfOneMemberAreHeldToTheirRolesByAll(t *testing.T) {
	for name, filling := range map[string]int{"the log tells": 0, "a snapshot tells": 3000} {
		t.Run(name, func(t *testing.T) {
			cluster := three(t)
			leader, others := cluster.leading(t, nil)
			absent, present := others[0], others[1]
			cluster.kill(absent)
			administer := func(what string, done error, change func(ctx context.Context, by *clientv3.Client) error) {
				insist(t, what, func(ctx context.Context) error { return change(ctx, present.direct) }, done)
			}
			for _, user := range []string{"root", "ann"} {
				administer("user", rpctypes.ErrUserAlreadyExist, func(ctx context.Context, by *clientv3.Client) error {
					_, err := by.UserAdd(ctx, user, "first")
					return err
				})
				administer("role", rpctypes.ErrRoleAlreadyExist, func(ctx context.Context, by *clientv3.Client) error {
					_, err := by.RoleAdd(ctx, user)
					return err
				})
				administer("grant", nil, func(ctx context.Context, by *clientv3.Client) error {
					_, err := by.UserGrantRole(ctx, user, user)
					return err
				})
			}
			administer("permit", nil, func(ctx context.Context, by *clientv3.Client) error {
				_, err := by.RoleGrantPermission(ctx, "ann", "ann/", "ann0", clientv3.PermissionType(clientv3.PermReadWrite))
				return err
			})
			fill(t, leader, filling)
			// Whoever enables may hear of a leader that changed, and is nobody in particular from then on.
			administer("enable", rpctypes.ErrUserEmpty, func(ctx context.Context, by *clientv3.Client) error {
				_, err := by.AuthEnable(ctx)
				return err
			})
			enforced(t, present, "first")
			enforced(t, leader, "first")
			cluster.start(t, absent)
			enforced(t, absent, "first")

			// What the late one changes counts everywhere; who is known by what was, is not known any more.
			root, before := as(t, absent, "root", "first"), as(t, leader, "ann", "first")
			expect(t, "a new password", nil, func(ctx context.Context) error {
				_, err := root.UserChangePassword(ctx, "ann", "second")
				return err
			})
			for _, m := range cluster.members {
				expect(t, m.name+": the old password", rpctypes.ErrAuthFailed, func(ctx context.Context) error {
					_, err := m.direct.Authenticate(ctx, "ann", "first")
					return err
				})
				enforced(t, m, "second")
			}
			if err := told(t, func(ctx context.Context) error {
				_, err := before.Put(ctx, "ann/before", "x")
				return err
			}); err == nil {
				t.Fatal("a token outlived the password that it was given for")
			}

			// A new leader knows all that.
			leader, _ = cluster.leading(t, root)
			cluster.kill(leader)
			for _, m := range cluster.members {
				if m != leader {
					enforced(t, m, "second")
				}
			}
			cluster.start(t, leader)
			enforced(t, leader, "second")
			insist(t, "disable", func(ctx context.Context) error {
				_, err := as(t, leader, "root", "first").AuthDisable(ctx)
				return err
			})
			cluster.same(t)
		})
	}
}

// fill writes so much that whoever was away must take over the state.
func fill(t *testing.T, m *member, count int) {
	value := strings.Repeat("x", 8<<10)
	var running sync.WaitGroup
	for writer := range 10 {
		running.Add(1)
		go func() {
			defer running.Done()
			for n := writer; n < count; n += 10 {
				if err := told(t, func(ctx context.Context) error {
					_, err := m.direct.Put(ctx, fmt.Sprintf("fill/%d", n), value)
					return err
				}); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	running.Wait()
}
