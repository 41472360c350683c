package bench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

// Order is about 250 bytes of JSON.
type Order struct {
	ID, Customer, SKU string
	Quantity          int
	UnitPrice         int64
	Currency, Country string
	Placed            time.Time
	Tags              []string
}

// Place is the command of all sides, OrderPlaced the event.
type Place struct {
	bus.Command[Receipt] `json:"-"`
	Order
}

func (Place) MessageName() string { return "order.place" }

type Receipt struct {
	ID    string
	Total int64
}

type OrderPlaced Order

func (OrderPlaced) MessageName() string { return "order.placed" }

func order(i int) Order {
	return Order{
		ID: fmt.Sprintf("order-%08d", i), Customer: "Ada Lovelace, 12 St James's Square", SKU: "SKU-1042-BLUE-XL",
		Quantity: 3, UnitPrice: 1999, Currency: "EUR", Country: "GB",
		Placed: time.Date(2026, 11, 23, 17, 45, 0, 0, time.UTC), Tags: []string{"web", "gift", "priority"},
	}
}

func receipt(o Order) Receipt { return Receipt{ID: o.ID, Total: int64(o.Quantity) * o.UnitPrice} }

// server runs one NATS server for a benchmark.
func server(b *testing.B) string {
	b.Helper()
	s, err := embedded.Start(embedded.Config{Listen: "127.0.0.1:0", Dir: b.TempDir()})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, s.Shutdown(context.Background())) })
	return s.ClientURL()
}

func connect(b *testing.B, url string) *nats.Conn {
	b.Helper()
	nc, err := nats.Connect(url)
	require.NoError(b, err)
	b.Cleanup(nc.Close)
	return nc
}

// stream makes a stream configured as jitney's own, for the other sides.
func stream(b *testing.B, nc *nats.Conn, name string, subjects ...string) jetstream.JetStream {
	b.Helper()
	js, err := jetstream.New(nc)
	require.NoError(b, err)
	_, err = js.CreateStream(b.Context(), jetstream.StreamConfig{
		Name: name, Subjects: subjects, Duplicates: 2 * time.Minute,
		Discard: jetstream.DiscardNew, MaxAge: 7 * 24 * time.Hour, AllowDirect: true,
		RePublish: &jetstream.RePublish{Source: subjects[0], Destination: "live." + subjects[0]},
	})
	require.NoError(b, err)
	return js
}

// measured starts the clocks of a benchmark. What it returns stops them and
// reports the processor time, everybody's in this process.
func measured(b *testing.B) (stop func()) {
	b.ReportAllocs()
	b.ResetTimer()
	began := processorTime(b)
	return func() {
		b.StopTimer()
		b.ReportMetric(float64(processorTime(b)-began)/float64(b.N), "cpu-ns/op")
	}
}

func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// latencyEach is of how many operations one is timed by itself.
const latencyEach = 8

// inFlight does b.N pieces of work, n at a time, and reports the latencies.
func inFlight(b *testing.B, n int, f func(i int) error) {
	b.Helper()
	times := make([][]time.Duration, n)
	for i := range times {
		times[i] = make([]time.Duration, 0, b.N/n/latencyEach+16)
	}
	stop := measured(b)
	var next atomic.Int64
	var wg sync.WaitGroup
	for w := range n {
		wg.Go(func() {
			for {
				i := int(next.Add(1))
				if i > b.N {
					return
				}
				if i%latencyEach != 0 {
					if err := f(i); err != nil {
						b.Error(err)
						return
					}
					continue
				}
				began := time.Now()
				if err := f(i); err != nil {
					b.Error(err)
					return
				}
				times[w] = append(times[w], time.Since(began))
			}
		})
	}
	wg.Wait()
	stop()
	reportLatency(b, slices.Concat(times...))
}

func reportLatency(b *testing.B, all []time.Duration) {
	if len(all) == 0 {
		return
	}
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2]), "p50-ns")
	b.ReportMetric(float64(all[len(all)*99/100]), "p99-ns")
}

// countdown is done after n calls of one.
type countdown struct {
	left atomic.Int64
	done chan struct{}
}

func newCountdown(n int) *countdown {
	c := &countdown{done: make(chan struct{})}
	c.left.Store(int64(n))
	return c
}

func (c *countdown) one() {
	if c.left.Add(-1) == 0 {
		close(c.done)
	}
}

// wait fails the benchmark if what is counted stops coming.
func (c *countdown) wait(b *testing.B) {
	b.Helper()
	last := c.left.Load()
	for {
		select {
		case <-c.done:
			return
		case <-time.After(20 * time.Second):
			now := c.left.Load()
			require.NotEqual(b, last, now, "%d messages missing, and none has come for 20 s", now)
			last = now
		}
	}
}
