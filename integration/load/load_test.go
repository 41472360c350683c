package load

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/transport/memory"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

var loadFor = flag.Duration("load", 2*time.Second, "how long each sustained load lasts")

// serverDir makes the test binary a server that keeps its streams there.
const serverDir = "JITNEY_LOAD_SERVER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(serverDir); dir != "" {
		if err := serve(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	os.Exit(m.Run())
}

// serve runs a server, says where, and ends with its standard input, at once: nobody
// reads what it keeps.
func serve(dir string) error {
	s, err := embedded.Start(embedded.Config{Listen: "127.0.0.1:0", Dir: dir})
	if err != nil {
		return err
	}
	fmt.Println(s.ClientURL())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// startServer starts a server in a process of its own, whose memory is not that of
// the buses, and returns its URL.
func startServer(t *testing.T) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverDir+"="+t.TempDir())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		require.NoError(t, cmd.Wait())
	})
	url, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(url)
}

// order is an event of about 250 bytes.
type order struct {
	ID, Customer, Note string
	N                  int
	Sent               time.Time
}

func (order) MessageName() string { return "load.order" }

func newOrder(n int) order {
	return order{
		ID: fmt.Sprintf("order-%09d", n), Customer: "customer-4711", N: n, Sent: time.Now(),
		Note: "leave it with the neighbours, second door on the left, and ring twice before you go back to the van, please",
	}
}

type price struct {
	bus.Command[int]
	N int
}

func (price) MessageName() string { return "load.price" }

// cluster opens the buses of one test on one server over TCP, with file streams.
type cluster struct {
	*testing.T
	url   string
	buses []*bus.Bus
}

func newCluster(t *testing.T) *cluster { return onServer(t, startServer(t)) }

func onServer(t *testing.T, url string) *cluster {
	c := &cluster{T: t, url: url}
	t.Cleanup(func() {
		var wg sync.WaitGroup
		for _, b := range c.buses {
			wg.Go(func() {
				if err := b.Close(context.Background()); err != nil {
					t.Errorf("close: %v", err)
				}
			})
		}
		wg.Wait()
	})
	return c
}

func (c *cluster) bus(service string, opts ...natsgo.Option) *bus.Bus {
	c.Helper()
	tr, err := nats.Open(c.Context(), nats.Config{URL: c.url, Options: opts})
	require.NoError(c, err)
	b, err := bus.New(tr, bus.Config{Service: service})
	require.NoError(c, err)
	c.buses = append(c.buses, b)
	return b
}

func inMemory(t *testing.T) *bus.Bus {
	t.Helper()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "load"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
	return b
}

// usage is what the process holds after a collection.
type usage struct {
	heap       uint64
	goroutines int
}

func measure() usage {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{m.HeapAlloc, runtime.NumGoroutine()}
}

func (u usage) String() string {
	return fmt.Sprintf("%.1f MiB, %d goroutines", float64(u.heap)/(1<<20), u.goroutines)
}

// flat checks that nothing grows: what is held at the end of a load is what was held
// after the first tenth of it, but for an allowance.
func flat(t *testing.T, samples []usage) {
	t.Helper()
	first, last := samples[0], samples[len(samples)-1]
	t.Logf("held: %v after the first tenth, %v at the end", first, last)
	require.Less(t, last.heap, first.heap+first.heap/4+8<<20, "the heap grows")
	require.Less(t, last.goroutines, first.goroutines+20, "goroutines grow")
}

// sample measures ten times in the course of d.
func sample(d time.Duration) (all []usage) {
	for range 10 {
		time.Sleep(d / 10)
		all = append(all, measure())
	}
	return all
}

// latencies of what is delivered.
type latencies struct {
	mu  sync.Mutex
	all []time.Duration
}

func (l *latencies) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = make([]time.Duration, 0, 1_000_000) // at once: it is no growth
	}
	if len(l.all) < cap(l.all) {
		l.all = append(l.all, d)
	}
}

func (l *latencies) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.all)
	at := func(p int) time.Duration {
		return l.all[min(len(l.all)*p/100, len(l.all)-1)].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("p50 %v, p99 %v", at(50), at(99))
}

// Publishers and three groups for as long as -load says.
func TestSustained(t *testing.T) {
	for _, driver := range []string{"memory", "nats"} {
		t.Run(driver, func(t *testing.T) {
			var publishers, listeners []*bus.Bus
			if driver == "memory" {
				b := inMemory(t)
				publishers, listeners = []*bus.Bus{b, b}, []*bus.Bus{b}
			} else {
				c := newCluster(t)
				publishers, listeners = []*bus.Bus{c.bus("a"), c.bus("a")}, []*bus.Bus{c.bus("b"), c.bus("b")}
			}
			const groups = 3
			var handled [groups]atomic.Int64
			var lag latencies
			for g := range groups {
				for _, b := range listeners {
					_, err := bus.Subscribe(t.Context(), b, func(_ context.Context, o order) error {
						if handled[g].Add(1); g == 0 && o.N%16 == 0 {
							lag.add(time.Since(o.Sent))
						}
						return nil
					}, bus.WithGroup(fmt.Sprintf("group-%d", g)))
					require.NoError(t, err)
				}
			}
			var published atomic.Int64
			var wg sync.WaitGroup
			began := time.Now()
			for _, b := range publishers {
				for range 4 {
					wg.Go(func() {
						for n := 0; time.Since(began) < *loadFor; n++ {
							// The log of the memory driver holds them back; on NATS nobody
							// does, and the groups would fall behind for ever.
							for published.Load()-handled[0].Load() > 5000 {
								time.Sleep(time.Millisecond)
							}
							if err := bus.Publish(t.Context(), b, newOrder(n)); err != nil {
								t.Errorf("publish: %v", err)
								return
							}
							published.Add(1)
						}
					})
				}
			}
			samples := sample(*loadFor)
			wg.Wait()
			took := time.Since(began)
			for g := range groups {
				require.Eventually(t, func() bool { return handled[g].Load() >= published.Load() }, time.Minute, time.Millisecond, "group %d", g)
			}
			t.Logf("%d events in %v to %d groups: %.0f published and %.0f handled a second, %v from publish to handler",
				published.Load(), took.Round(time.Millisecond), groups, float64(published.Load())/took.Seconds(),
				float64(groups*published.Load())/took.Seconds(), &lag)
			flat(t, samples)
			for g := range groups {
				require.Equal(t, published.Load(), handled[g].Load(), "group %d, each once", g)
			}
		})
	}
}

// A group that takes 20 ms for each event, beside one that takes none.
func TestSlowNextToFast(t *testing.T) {
	c := newCluster(t)
	publisher, fast, slow := c.bus("a"), c.bus("fast"), c.bus("slow")
	var lag latencies
	var quick, dull atomic.Int64
	_, err := bus.Subscribe(t.Context(), fast, func(_ context.Context, o order) error {
		lag.add(time.Since(o.Sent))
		quick.Add(1)
		return nil
	})
	require.NoError(t, err)
	_, err = bus.Subscribe(t.Context(), slow, func(context.Context, order) error {
		time.Sleep(20 * time.Millisecond)
		dull.Add(1)
		return nil
	}, bus.WithConcurrency(4))
	require.NoError(t, err)
	var published int64
	done := make(chan []usage)
	go func() { done <- sample(*loadFor) }()
	for began := time.Now(); time.Since(began) < *loadFor; published++ {
		require.NoError(t, bus.Publish(t.Context(), publisher, newOrder(int(published))))
	}
	samples := <-done
	require.Eventually(t, func() bool { return quick.Load() == published }, 30*time.Second, time.Millisecond)
	require.Less(t, dull.Load(), published, "it should be behind by now")
	t.Logf("%d events; the fast group has all of them, %v after publish; the slow one has %d", published, &lag, dull.Load())
	flat(t, samples)
}

// Ten thousand commands in flight.
func TestTenThousandExecutes(t *testing.T) {
	const n = 10_000
	c := newCluster(t)
	callers, server := []*bus.Bus{c.bus("a"), c.bus("a")}, c.bus("prices")
	var running, most atomic.Int64
	require.NoError(t, bus.Handle(t.Context(), server, func(_ context.Context, p price) (int, error) {
		if now := running.Add(1); now > most.Load() {
			most.Store(now)
		}
		defer running.Add(-1)
		time.Sleep(5 * time.Millisecond)
		return p.N * 2, nil
	}, bus.WithConcurrency(5_000)))
	before := measure()
	for round := range 3 {
		var wg sync.WaitGroup
		var right atomic.Int64
		began := time.Now()
		for i := range n {
			wg.Go(func() {
				double, err := bus.Execute(t.Context(), callers[i%2], price{N: i}, bus.WithTimeout(time.Minute))
				if err == nil && double == 2*i {
					right.Add(1)
				} else {
					t.Errorf("%d: %d, %v", i, double, err)
				}
			})
		}
		wg.Wait()
		took := time.Since(began)
		require.EqualValues(t, n, right.Load())
		t.Logf("round %d: %d commands at once in %v, %.0f a second; %d at most ran at once", round+1, n, took.Round(time.Millisecond), n/took.Seconds(), most.Load())
	}
	var after usage
	require.Eventually(t, func() bool {
		after = measure()
		return after.goroutines < before.goroutines+50
	}, 30*time.Second, 100*time.Millisecond, "goroutines stay")
	t.Logf("held: %v before, %v after", before, after)
}

// All connections end at once, again and again.
func TestReconnectStorm(t *testing.T) {
	const buses, storms = 50, 5
	s := natstest.Server(t)
	c := onServer(t, s.URL())
	var heard sync.Map
	var handled atomic.Int64
	all := make([]*bus.Bus, buses)
	for i := range all {
		all[i] = c.bus("storm", natsgo.ReconnectWait(50*time.Millisecond), natsgo.ReconnectJitter(50*time.Millisecond, 50*time.Millisecond))
		_, err := bus.Subscribe(t.Context(), all[i], func(_ context.Context, o order) error {
			if _, again := heard.LoadOrStore(o.ID, true); !again {
				handled.Add(1)
			}
			return nil
		})
		require.NoError(t, err)
		require.NoError(t, bus.Handle(t.Context(), all[i], func(_ context.Context, p price) (int, error) { return p.N * 2, nil }))
	}
	before := measure()
	n := 0
	for storm := range storms {
		s.Restart()
		began := time.Now()
		var wg sync.WaitGroup
		for i := range all {
			at := n
			n++
			wg.Go(func() {
				err := bus.Publish(t.Context(), all[i], newOrder(at), bus.WithTimeout(30*time.Second))
				if err != nil {
					t.Errorf("publish %d: %v", at, err)
				}
				if double, err := bus.Execute(t.Context(), all[i], price{N: at}, bus.WithIdempotencyKey(fmt.Sprint(at)), bus.WithTimeout(30*time.Second)); err != nil || double != 2*at {
					t.Errorf("execute %d: %d, %v", at, double, err)
				}
			})
		}
		wg.Wait()
		require.Eventually(t, func() bool { return handled.Load() == int64(n) }, 30*time.Second, time.Millisecond)
		t.Logf("storm %d: %d buses publish, execute and handle again within %v", storm+1, buses, time.Since(began).Round(time.Millisecond))
	}
	after := measure()
	t.Logf("held: %v before, %v after", before, after)
	require.Less(t, after.goroutines, before.goroutines+4*buses, "goroutines stay")
}
