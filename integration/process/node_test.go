//go:build unix

package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
	jitneynats "github.com/jitney-bus/jitney/transport/nats"
)

// jetStreamOff tells a server to go on without JetStream.
const jetStreamOff = syscall.SIGALRM

// nodeSettings are those of one server.
type nodeSettings struct {
	Name, Dir       string
	Port, RoutePort int
	Advertise       string // where clients find it: its proxy
	Routes          []string
	Nowhere         string // what the other servers are told to find it at
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
		// Each way between two servers has a proxy of its own, which only Routes knows.
		Cluster: server.ClusterOpts{Name: "jitney", Host: "127.0.0.1", Port: s.RoutePort, Advertise: s.Nowhere, PoolSize: -1},
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
	off := make(chan os.Signal, 1)
	signal.Notify(off, jetStreamOff)
	go func() {
		for range off {
			if err := n.DisableJetStream(); err != nil {
				fmt.Fprintln(os.Stderr, s.Name, "keeps its JetStream:", err)
			}
		}
	}()
	n.WaitForShutdown()
	return nil
}

// node is a server with the proxy before it, and those on its ways to the others.
type node struct {
	nodeSettings
	proxy  *proxy
	routes map[string]*proxy // by the other's name
	disk   *disk             // of its own, or nil
	*process
}

// servers is the cluster.
type servers struct {
	t     *testing.T
	h     *history
	nodes []*node
}

func startServers(t *testing.T, h *history, smallDisk bool) *servers {
	t.Helper()
	s := &servers{t: t, h: h}
	ports := freePorts(t, 6)
	nowhere := startProxy(t, "")
	nowhere.set(false, true, 0)
	for i := range 3 {
		n := &node{nodeSettings: nodeSettings{
			Name: fmt.Sprintf("n%d", i+1), Dir: t.TempDir(), Port: ports[3+i], RoutePort: ports[i], Nowhere: nowhere.addr(),
		}, routes: map[string]*proxy{}}
		n.proxy = startProxy(t, fmt.Sprintf("127.0.0.1:%d", n.Port))
		n.Advertise = n.proxy.addr()
		s.nodes = append(s.nodes, n)
	}
	for _, n := range s.nodes {
		for _, other := range s.nodes {
			if other == n {
				continue
			}
			p := startProxy(t, fmt.Sprintf("127.0.0.1:%d", other.RoutePort))
			n.routes[other.Name] = p
			n.Routes = append(n.Routes, "nats://"+p.addr())
		}
	}
	if smallDisk {
		s.nodes[0].disk = newDisk(t)
		s.nodes[0].Dir = s.nodes[0].disk.dir
	}
	for _, n := range s.nodes {
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
	for i, n := range s.nodes {
		for _, other := range s.nodes[i+1:] {
			require.Eventually(t, func() bool { return n.routes[other.Name].count()+other.routes[n.Name].count() > 0 },
				time.Minute, 10*time.Millisecond, "no way from %s to %s goes through a proxy", n.Name, other.Name)
		}
	}
	return s
}

func (s *servers) start(n *node) { n.process = spawn(s.t, s.h.line, "node", n.Name, n.nodeSettings) }

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

// part cuts a server off from the two others, which nobody is told; mend ends that.
func (s *servers) part(n *node) { s.eachWay(n, func(p *proxy) { p.set(true, false, 0) }) }

func (s *servers) mend(n *node) {
	s.eachWay(n, func(p *proxy) {
		p.set(false, false, 0)
		p.cut()
	})
}

// eachWay does f to the proxies of both directions between a server and the others.
func (s *servers) eachWay(n *node, f func(*proxy)) {
	for _, p := range n.routes {
		f(p)
	}
	for _, other := range s.nodes {
		if p := other.routes[n.Name]; p != nil {
			f(p)
		}
	}
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

// A cluster that starts has its servers together in a moment; one that is too small
// stays so, which is an error that says it.
func TestTooFewServers(t *testing.T) {
	t.Parallel()
	s := startServers(t, newHistory(), false)
	began := time.Now()
	_, err := jitneynats.Open(t.Context(), jitneynats.Config{URL: strings.Join(s.urls(), ","), Replicas: 5})
	require.ErrorIs(t, err, transport.ErrConfig)
	require.ErrorContains(t, err, "too few servers for 5 replicas")
	require.Less(t, time.Since(began), 20*time.Second)
}

// pause stops a process for a while, as a machine that swaps does.
func (p *process) pause(d time.Duration) {
	p.signal(syscall.SIGSTOP)
	time.Sleep(d)
	p.signal(syscall.SIGCONT)
}

// given are the ports that a server of this process has, also while it is down.
var given = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// freePorts finds ports that are free and stay so. They lie below those that the
// system chooses for a listener that takes any and for the near end of a connection.
func freePorts(t *testing.T, n int) (free []int) {
	t.Helper()
	given.Lock()
	defer given.Unlock()
	for tries := 0; len(free) < n; tries++ {
		require.Less(t, tries, 1000, "no port is free")
		port := 10_000 + rand.IntN(20_000)
		if given.ports[port] {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue // somebody has it
		}
		require.NoError(t, l.Close())
		given.ports[port] = true
		free = append(free, port)
	}
	return free
}
