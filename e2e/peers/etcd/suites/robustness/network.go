package robustness

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"go.etcd.io/etcd/pkg/v3/proxy"
	"go.uber.org/zap"
)

// size is how many members there are.
const size = 3

// A network joins the members to one another and to the clients.
type network interface {
	// client and peer are where a member listens.
	client(member int) string
	peer(member int) string
	// known is where its peers look for it.
	known(member int) string
	// command starts a program at a member's place.
	command(member int, program string, arguments ...string) *exec.Cmd
	// cut drops what goes from one member to another, and says nothing to either.
	cut(from, to int) error
	// mend ends every cut.
	mend() error
}

// namespaces gives every member a network of its own, with this process between them: see robustness.sh.
type namespaces struct{ cuts [][]string }

// inNamespaces says whether this process may do as it likes with the network, since the network is its own.
func inNamespaces() bool { return os.Getenv("ROBUSTNESS_NAMESPACES") != "" }

func address(member int) string { return fmt.Sprintf("198.18.%d.1", member) }

func ip(arguments ...string) error {
	text, err := exec.Command("ip", arguments...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(arguments, " "), err, strings.TrimSpace(string(text)))
	}
	return nil
}

func newNamespaces() (*namespaces, error) {
	steps := [][]string{{"link", "set", "lo", "up"}}
	for i := range size {
		name, link, router := fmt.Sprintf("m%d", i), fmt.Sprintf("link%d", i), fmt.Sprintf("198.18.%d.254", i)
		steps = append(steps,
			[]string{"netns", "add", name},
			[]string{"link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name},
			[]string{"addr", "add", router + "/24", "dev", link},
			[]string{"link", "set", link, "up"},
			[]string{"-n", name, "link", "set", "lo", "up"},
			[]string{"-n", name, "addr", "add", address(i) + "/24", "dev", "eth0"},
			[]string{"-n", name, "link", "set", "eth0", "up"},
			[]string{"-n", name, "route", "add", "default", "via", router})
	}
	for _, step := range steps {
		if err := ip(step...); err != nil {
			return nil, err
		}
	}
	return &namespaces{}, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o600)
}

func (n *namespaces) client(member int) string { return "http://" + address(member) + ":2379" }
func (n *namespaces) peer(member int) string   { return "http://" + address(member) + ":2380" }
func (n *namespaces) known(member int) string  { return n.peer(member) }

// command relies on `ip netns exec` becoming the program that it starts: signals reach the program.
func (n *namespaces) command(member int, program string, arguments ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", fmt.Sprintf("m%d", member), program}, arguments...)...)
}

func (n *namespaces) cut(from, to int) error {
	rule := []string{"from", address(from), "to", address(to), "blackhole"}
	n.cuts = append(n.cuts, rule)
	return ip(append([]string{"rule", "add"}, rule...)...)
}

func (n *namespaces) mend() error {
	for len(n.cuts) > 0 {
		if err := ip(append([]string{"rule", "del"}, n.cuts[0]...)...); err != nil {
			return err
		}
		n.cuts = n.cuts[1:]
	}
	return nil
}

// proxies stand before the members' peer ports, where there are no namespaces. They cannot tell who calls, so what
// comes in to a member is cut whole: what all others send to it, and its answers.
type proxies struct {
	clients, peers, fronts [size]string
	servers                [size]proxy.Server
}

func newProxies() (*proxies, error) {
	p := &proxies{}
	for i := range size {
		for _, place := range []*string{&p.clients[i], &p.peers[i], &p.fronts[i]} {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return nil, err
			}
			defer listener.Close()
			*place = "http://" + listener.Addr().String()
		}
	}
	return p, nil
}

// open starts the proxies; their ports are free again by then.
func (p *proxies) open() error {
	for i := range size {
		from, to := strings.TrimPrefix(p.fronts[i], "http://"), strings.TrimPrefix(p.peers[i], "http://")
		p.servers[i] = proxy.NewServer(proxy.ServerConfig{
			Logger: zap.NewNop(), From: url.URL{Scheme: "tcp", Host: from}, To: url.URL{Scheme: "tcp", Host: to},
		})
		select {
		case <-p.servers[i].Ready():
		case err := <-p.servers[i].Error():
			return err
		case <-time.After(patience):
			return fmt.Errorf("the proxy at %s does not start", from)
		}
	}
	return nil
}

func (p *proxies) client(member int) string { return p.clients[member] }
func (p *proxies) peer(member int) string   { return p.peers[member] }
func (p *proxies) known(member int) string  { return p.fronts[member] }

func (p *proxies) command(_ int, program string, arguments ...string) *exec.Cmd {
	return exec.Command(program, arguments...)
}

func (p *proxies) cut(_, to int) error {
	p.servers[to].BlackholeTx()
	p.servers[to].BlackholeRx()
	return nil
}

func (p *proxies) mend() error {
	for _, server := range p.servers {
		server.UnblackholeTx()
		server.UnblackholeRx()
	}
	return nil
}

func newNetwork() (network, error) {
	if inNamespaces() {
		return newNamespaces()
	}
	p, err := newProxies()
	if err != nil {
		return nil, err
	}
	return p, p.open()
}
