//go:build unix

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// nodeSettings are those of one server.
type nodeSettings struct {
	Name, Dir       string
	Port, RoutePort int
	Advertise       string // where clients find it: its proxy
	Routes          []string
}

// runNode is one server of the cluster, until it is told to end.
func runNode(text []byte) error {
	var s nodeSettings
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	o := &server.Options{
		ServerName: s.Name, Host: "127.0.0.1", Port: s.Port, ClientAdvertise: s.Advertise,
		JetStream: true, StoreDir: s.Dir, NoLog: true,
		Cluster: server.ClusterOpts{Name: "jitney", Host: "127.0.0.1", Port: s.RoutePort},
	}
	for _, r := range s.Routes {
		u, err := url.Parse(r)
		if err != nil {
			return err
		}
		o.Routes = append(o.Routes, u)
	}
	n, err := server.NewServer(o)
	if err != nil {
		return err
	}
	n.Start() // and SIGTERM shuts it down in order, by itself
	if !n.ReadyForConnections(30 * time.Second) {
		return errors.New("not ready for connections")
	}
	fmt.Println("ready")
	n.WaitForShutdown()
	return nil
}

// node is a server with the proxy before it.
type node struct {
	nodeSettings
	proxy *proxy
	*process
}

// servers is the cluster.
type servers struct {
	t     *testing.T
	h     *history
	nodes []*node
}

func startServers(t *testing.T, h *history) *servers {
	t.Helper()
	s := &servers{t: t, h: h}
	ports := freePorts(t, 6)
	var routes []string
	for i := range 3 {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", ports[i]))
	}
	for i := range 3 {
		p := startProxy(t, fmt.Sprintf("127.0.0.1:%d", ports[3+i]))
		n := &node{proxy: p, nodeSettings: nodeSettings{
			Name: fmt.Sprintf("n%d", i+1), Dir: t.TempDir(), Port: ports[3+i], RoutePort: ports[i],
			Advertise: p.addr(), Routes: routes,
		}}
		s.nodes = append(s.nodes, n)
		s.start(n)
	}
	for _, n := range s.nodes {
		n.await(time.Minute)
	}
	t.Cleanup(func() {
		for _, n := range s.nodes {
			n.kill()
		}
	})
	return s
}

func (s *servers) start(n *node) { n.process = spawn(s.t, s.h, "node", n.Name, n.nodeSettings) }

// restart starts a node that was killed.
func (s *servers) restart(n *node) {
	s.start(n)
	n.await(time.Minute)
}

func (s *servers) urls() (all []string) {
	for _, n := range s.nodes {
		all = append(all, "nats://"+n.proxy.addr())
	}
	return all
}

// client connects to the servers themselves, past the proxies.
func (s *servers) client() *nats.Conn {
	s.t.Helper()
	var all string
	for _, n := range s.nodes {
		all += fmt.Sprintf("nats://127.0.0.1:%d,", n.Port)
	}
	nc, err := nats.Connect(all[:len(all)-1], nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond),
		nats.RetryOnFailedConnect(true), nats.IgnoreDiscoveredServers(), nats.Timeout(2*time.Second),
		nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2))
	require.NoError(s.t, err)
	s.t.Cleanup(nc.Close)
	return nc
}

// leader is the node that leads a stream, nil if nobody does now.
func (s *servers) leader(js jetstream.JetStream, stream string) *node {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	st, err := js.Stream(ctx, stream)
	if err != nil || st.CachedInfo().Cluster == nil {
		return nil
	}
	for _, n := range s.nodes {
		if n.Name == st.CachedInfo().Cluster.Leader {
			return n
		}
	}
	return nil
}

// healthy waits until every replica of a stream is there and current.
func (s *servers) healthy(js jetstream.JetStream, stream string, timeout time.Duration) bool {
	for end := time.Now().Add(timeout); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		st, err := js.Stream(ctx, stream)
		cancel()
		if err != nil || st.CachedInfo().Cluster == nil || st.CachedInfo().Cluster.Leader == "" {
			continue
		}
		current := 1
		for _, r := range st.CachedInfo().Cluster.Replicas {
			if r.Current && !r.Offline {
				current++
			}
		}
		if current == 3 {
			return true
		}
	}
	return false
}

// pause stops a process for a while, as a machine that swaps does.
func (p *process) pause(d time.Duration) {
	p.signal(syscall.SIGSTOP)
	time.Sleep(d)
	p.signal(syscall.SIGCONT)
}

// freePorts finds ports that are free now.
func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}
