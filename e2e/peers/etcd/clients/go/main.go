// Command go is a client of three members, with TLS and a user: go.etcd.io/etcd/client/v3.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func main() {
	ca, err := os.ReadFile("tls/ca.pem")
	check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"https://127.0.0.1:12379", "https://127.0.0.1:22379", "https://127.0.0.1:32379"},
		TLS:       &tls.Config{RootCAs: roots},
		Username:  "app", Password: "app-secret",
		DialTimeout: time.Minute,
	})
	check(err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()

	put, err := client.Put(ctx, "app/go", "1")
	check(err)
	events := client.Watch(ctx, "app/go", clientv3.WithRev(put.Header.Revision))
	fmt.Println("watched:", (<-events).Events[0].Type)

	lease, err := client.Grant(ctx, 600)
	check(err)
	txn, err := client.Txn(ctx).
		If(clientv3.Compare(clientv3.Value("app/go"), "=", "1")).
		Then(clientv3.OpPut("app/go", "2", clientv3.WithLease(lease.ID)), clientv3.OpGet("app/go")).
		Commit()
	check(err)
	fmt.Println("swapped:", txn.Succeeded)

	_, err = client.Put(ctx, "other/go", "1")
	if !errors.Is(err, rpctypes.ErrPermissionDenied) {
		log.Fatalf("others' keys: %v", err)
	}
	fmt.Println("go: ok")
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
