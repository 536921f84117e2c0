// Command etcd is the reference server that tinykv is compared with: the
// published Go module, started by its own entry point.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
