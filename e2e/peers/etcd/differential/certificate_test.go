package differential

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"aistack/e2e/peers/etcd/peers"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/status"
)

// uses are what somebody tries, and what came of it.
func uses(t *testing.T, client *clientv3.Client) (told []string) {
	ctx, cancel := context.WithTimeout(context.Background(), peers.Patience)
	defer cancel()
	say := func(what string, err error) { told = append(told, what+": "+status.Convert(err).Message()) }
	_, err := client.Put(ctx, "ann/a", "x")
	say("put what is ann's", err)
	_, err = client.Put(ctx, "other", "x")
	say("put what is not", err)
	_, err = client.Get(ctx, "ann/a")
	say("get what is ann's", err)
	_, err = client.Get(ctx, "other")
	say("get what is not", err)
	_, err = client.Get(ctx, "ann/a", clientv3.WithSerializable())
	say("get it where it is", err)
	_, err = client.UserList(ctx)
	say("list the users", err)
	_, err = client.UserGet(ctx, "ann")
	say("get ann", err)
	_, err = client.MemberList(ctx)
	say("list the members", err)
	watching, end := context.WithCancel(ctx)
	first := <-client.Watch(watching, "other", clientv3.WithCreatedNotify())
	end()
	say("watch what is not", first.Err())
	return told
}

func TestTheNameInACertificateIsTheUserAsWithEtcd(t *testing.T) {
	signer, dir := peers.NewAuthority(t), t.TempDir()
	of := func(name string) *tls.Config { return signer.Issue(t, filepath.Join(dir, name), name) }
	server, root, ann := of("server"), of("root"), of("ann")
	callers := []struct {
		what           string
		over           *tls.Config
		user, password string
	}{
		{"root by certificate", root, "", ""},
		{"ann by certificate", ann, "", ""},
		{"a certificate of nobody", of("nobody"), "", ""},
		{"a certificate without a name", of(""), "", ""},
		{"root's password before ann's certificate", ann, "root", "secret"},
		{"root's certificate behind ann's password", root, "ann", "secret"},
	}
	flags := []string{
		"--cert-file=" + filepath.Join(dir, "server", "cert.pem"), "--key-file=" + filepath.Join(dir, "server", "key.pem"),
		"--trusted-ca-file=" + filepath.Join(dir, "server", "ca.pem"), "--client-cert-auth", "--bcrypt-cost=4", "--auth-token-ttl=3600",
	}
	var answers [2][]string
	for i, s := range []*peers.Server{peers.EtcdTLS(t, server, flags...), peers.TinykvTLS(t, server, flags...)} {
		manage(t, s)
		for _, caller := range callers {
			client, err := clientv3.New(clientv3.Config{
				Endpoints: []string{s.Endpoint}, TLS: caller.over, Username: caller.user, Password: caller.password,
				DialTimeout: peers.Patience, Logger: zap.NewNop(),
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, told := range uses(t, client) {
				answers[i] = append(answers[i], caller.what+": "+told)
			}
			client.Close()
		}
		// The gateway hands no name on: whoever calls it needs a token.
		gateway := &http.Client{Timeout: peers.Patience, Transport: &http.Transport{TLSClientConfig: root}}
		response, err := gateway.Post(s.Endpoint+"/v3/kv/range", "application/json", strings.NewReader(fmt.Sprintf(`{"key": %q}`, b64("ann/a"))))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		answers[i] = append(answers[i], fmt.Sprintf("the gateway by certificate: %d", response.StatusCode))
		bare := &tls.Config{RootCAs: root.RootCAs}
		stranger := &http.Client{Timeout: peers.Patience, Transport: &http.Transport{TLSClientConfig: bare}}
		if response, err := stranger.Get(s.Endpoint + "/version"); err == nil {
			response.Body.Close()
			t.Fatalf("%s answers a client without a certificate", s.Name)
		}
	}
	for i, told := range answers[0] {
		if told != answers[1][i] {
			t.Errorf("etcd    %s\n  tinykv  %s", told, answers[1][i])
		}
	}
	for _, expected := range []string{
		"ann by certificate: put what is ann's: ", "ann by certificate: put what is not: etcdserver: permission denied",
		"root by certificate: list the users: ", "a certificate of nobody: get what is ann's: etcdserver: permission denied",
	} {
		if !strings.Contains("\n"+strings.Join(answers[1], "\n")+"\n", "\n"+expected+"\n") {
			t.Errorf("%q is not among\n%s", expected, strings.Join(answers[1], "\n"))
		}
	}
}

// manage makes the users, and has them asked for.
func manage(t *testing.T, s *peers.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), peers.Patience)
	defer cancel()
	for _, user := range []string{"root", "ann"} {
		if _, err := s.Client.UserAdd(ctx, user, "secret"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Client.RoleAdd(ctx, user); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Client.UserGrantRole(ctx, user, user); err != nil {
			t.Fatal(err)
		}
	}
	read := clientv3.PermissionType(clientv3.PermReadWrite)
	if _, err := s.Client.RoleGrantPermission(ctx, "ann", "ann/", "ann0", read); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client.AuthEnable(ctx); err != nil {
		t.Fatal(err)
	}
}
