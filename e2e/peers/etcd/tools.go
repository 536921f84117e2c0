//go:build tools

// Package tools pins the peer's command line in go.mod and go.sum.
package tools

import _ "go.etcd.io/etcd/etcdctl/v3"
