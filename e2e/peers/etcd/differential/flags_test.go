package differential

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"aistack/e2e/peers/etcd/peers"
)

// Every flag that etcd's own help lists, with the default that it names, is one that tinykv takes: none is unknown to it, and
// none is refused for what is etcd's default.
func TestEveryFlagOfEtcdIsTakenAtItsDefault(t *testing.T) {
	help, err := exec.Command(peers.Binary(t, "PEER_ETCD", homeEtcd()), "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, help)
	}
	// Options after the usage; a default stands behind the name, in quotes or bare.
	_, options, found := strings.Cut(string(help), "Member:")
	if !found {
		t.Fatalf("etcd's help has another form:\n%s", help)
	}
	listed := regexp.MustCompile(`(?m)^  --([a-z0-9-]+)(?: (.*))?$`).FindAllStringSubmatch(options, -1)
	if len(listed) < 100 {
		t.Fatalf("only %d flags", len(listed))
	}
	for _, flag := range listed {
		name, value := flag[1], strings.Trim(flag[2], "'")
		switch {
		case strings.HasPrefix(value, "math."):
			value = "4294967295"
		case strings.Contains(value, "$"), value == "" && flag[2] == "":
			value = bare[name]
		case name == "initial-cluster":
			value = "" // It asks for others that are not there.
		}
		said := peers.Says(t, "--"+name+"="+value, "--print-config")
		if strings.Contains(said, "error:") {
			t.Errorf("--%s=%s: %s", name, value, said)
		}
	}
}

// Defaults that the help leaves out.
var bare = map[string]string{
	"data-dir": "default.etcd", "memory-mlock": "false", "enable-grpc-gateway": "true", "bootstrap-defrag-threshold-megabytes": "0",
	"compaction-sleep-interval": "10ms", "downgrade-check-time": "5s", "snapshot-catchup-entries": "5000",
}
