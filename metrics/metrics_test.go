package metrics_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/metrics"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

type order struct{ ID string }

func (order) MessageName() string { return "order.placed" }

type place struct {
	bus.Command[bus.None]
	Fail string
}

func (place) MessageName() string { return "order.place" }

var errOops = errors.New("oops")

func handle(_ context.Context, p place) error {
	switch p.Fail {
	case "panic":
		panic("oops")
	case "":
		return nil
	}
	return errOops
}

// newBus is a bus with a command handler and two listeners, one of which fails.
func newBus(t testing.TB, cfg bus.Config) *bus.Bus {
	t.Helper()
	cfg.Service = "shop"
	cfg.Retry = resilience.Retry{MaxRetries: 1, Initial: time.Second, Jitter: resilience.NoJitter}
	b, err := bus.New(memory.New(memory.Config{}), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(context.Background())) })
	require.NoError(t, bus.HandleNone(t.Context(), b, handle))
	_, err = bus.Subscribe(t.Context(), b, func(context.Context, order) error { return nil }, bus.WithName("good"))
	require.NoError(t, err)
	_, err = bus.Subscribe(t.Context(), b, func(context.Context, order) error { return errOops }, bus.WithGroup("mailer"), bus.WithName("bad"))
	require.NoError(t, err)
	return b
}

func register(t testing.TB, b *bus.Bus, cfg metrics.Config) (*metrics.Metrics, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	m, err := metrics.Register(reg, b, cfg)
	require.NoError(t, err)
	t.Cleanup(m.Close)
	return m, reg
}

// lines are the series of the given metrics in the text format, without histograms'
// buckets and without what is zero, unless zeros says so.
func lines(t testing.TB, g prometheus.Gatherer, zeros bool, prefixes ...string) (all []string) {
	t.Helper()
	families, err := g.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if len(prefixes) > 0 && !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(f.GetName(), p) }) {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			v := m.GetCounter().GetValue() + m.GetGauge().GetValue()
			if f.GetType() == dto.MetricType_HISTOGRAM {
				v = float64(m.GetHistogram().GetSampleCount())
			}
			if zeros || v != 0 {
				all = append(all, fmt.Sprintf("%s{%s} %v", f.GetName(), strings.Join(labels, ","), v))
			}
		}
	}
	return all
}

// names are those of the specification.
var names = []string{
	"events_published_total", "events_processed_total", "events_failed_total",
	"commands_sent_total", "commands_processed_total", "commands_failed_total",
	"event_processing_duration_seconds", "command_processing_duration_seconds",
	"queue_size", "backpressure_active", "circuit_breaker_state", "dead_letter_queue_size", "active_sessions", "registered_handlers",
}

func TestNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBus(t, bus.Config{CommandBreaker: &resilience.Breaker{}})
		_, reg := register(t, b, metrics.Config{})
		require.NoError(t, bus.Do(context.Background(), b, place{}))
		synctest.Wait() // for the first poll
		for _, name := range names {
			require.NotEmpty(t, lines(t, reg, true, name), name)
		}
		families, err := reg.Gather()
		require.NoError(t, err)
		problems, err := promlint.NewWithMetricFamilies(families).Lint()
		require.NoError(t, err)
		require.Empty(t, problems)
	})
}

// What is registered is there before anything has happened, so that a rate does not
// miss the first.
func TestZeros(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBus(t, bus.Config{})
		_, reg := register(t, b, metrics.Config{PollInterval: -1})
		require.Equal(t, []string{
			"command_processing_duration_seconds{handler=shop,type=order.place} 0",
			"commands_failed_total{handler=shop,reason=cancelled,type=order.place} 0",
			"commands_failed_total{handler=shop,reason=failed,type=order.place} 0",
			"commands_failed_total{handler=shop,reason=invalid,type=order.place} 0",
			"commands_failed_total{handler=shop,reason=panic,type=order.place} 0",
			"commands_failed_total{handler=shop,reason=refused,type=order.place} 0",
			"commands_failed_total{handler=shop,reason=timeout,type=order.place} 0",
			"commands_processed_total{handler=shop,type=order.place} 0",
			"commands_sent_total{type=order.place} 0",
		}, lines(t, reg, true, "command_processing", "commands_failed", "commands_processed", "commands_sent"))
		require.Equal(t, []string{
			"event_processing_duration_seconds{group=mailer,handler=bad,type=order.placed} 0",
			"event_processing_duration_seconds{group=shop,handler=good,type=order.placed} 0",
			"events_processed_total{group=mailer,handler=bad,type=order.placed} 0",
			"events_processed_total{group=shop,handler=good,type=order.placed} 0",
			"events_published_total{type=order.placed} 0",
		}, lines(t, reg, true, "event_processing", "events_processed", "events_published"))
		require.Empty(t, lines(t, reg, true, "dead_letter_queue_size", "active_sessions"), "not polled")
		_, err := bus.Subscribe(t.Context(), b, func(context.Context, order) error { return nil }, bus.WithGroup("late"))
		require.NoError(t, err)
		require.Contains(t, lines(t, reg, true), "event_processing_duration_seconds{group=late,handler=default,type=order.placed} 0")
	})
}

func TestValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBus(t, bus.Config{})
		_, reg := register(t, b, metrics.Config{})
		for _, fail := range []string{"", "", "oops", "panic"} {
			_ = bus.Do(context.Background(), b, place{Fail: fail})
		}
		require.NoError(t, bus.Publish(t.Context(), b, order{}))
		require.Error(t, bus.Publish(t.Context(), b, nil))
		s, err := b.Session(t.Context(), "secret-session")
		require.NoError(t, err)
		_, err = bus.Subscribe(t.Context(), s, func(context.Context, order) error { return nil })
		require.NoError(t, err)
		require.NoError(t, bus.Publish(t.Context(), s, order{}))
		time.Sleep(500 * time.Millisecond)
		require.Equal(t, []string{"events_retrying{group=mailer,handler=bad,type=order.placed} 2"}, lines(t, reg, false, "events_retrying"))
		time.Sleep(time.Minute)
		_, err = bus.PublishAsync(t.Context(), b, order{})
		require.NoError(t, err)
		want := []string{
			"active_sessions{} 1",
			"command_errors_total{reason=failed,type=order.place} 1",
			"command_errors_total{reason=panic,type=order.place} 1",
			"command_processing_duration_seconds{handler=shop,type=order.place} 4",
			"commands_dead_lettered_total{handler=shop,type=order.place} 1",
			"commands_failed_total{handler=shop,reason=failed,type=order.place} 1",
			"commands_failed_total{handler=shop,reason=panic,type=order.place} 1",
			"commands_processed_total{handler=shop,type=order.place} 2",
			"commands_sent_total{type=order.place} 4",
			"dead_letter_queue_oldest_seconds{} 60.5",
			"dead_letter_queue_size{} 3",
			"event_dwell_seconds{group=mailer,handler=bad,type=order.placed} 2",
			"event_dwell_seconds{group=shop,handler=good,type=order.placed} 2",
			"event_lag_seconds{group=mailer,handler=bad,type=order.placed} 2",
			"event_lag_seconds{group=shop,handler=good,type=order.placed} 2",
			"event_processing_duration_seconds{group=,handler=listener-1,type=order.placed} 1",
			"event_processing_duration_seconds{group=mailer,handler=bad,type=order.placed} 4",
			"event_processing_duration_seconds{group=shop,handler=good,type=order.placed} 2",
			"events_dead_lettered_total{group=mailer,handler=bad,type=order.placed} 2",
			"events_failed_total{group=mailer,handler=bad,reason=failed,type=order.placed} 4",
			"events_processed_total{group=,handler=listener-1,type=order.placed} 1",
			"events_processed_total{group=shop,handler=good,type=order.placed} 2",
			"events_published_total{type=jitney.dead_lettered} 3",
			"events_published_total{type=jitney.session_started} 1",
			"events_published_total{type=order.placed} 2",
			"events_redelivered_total{group=mailer,handler=bad,type=order.placed} 2",
			"events_rejected_total{reason=invalid,type=unknown} 1",
			"events_retried_total{group=mailer,handler=bad,type=order.placed} 2",
			"open_sessions{} 1",
			"queue_capacity{queue=publish} 10000",
			"queue_size{queue=publish} 1",
			"registered_handlers{kind=command} 1",
			"registered_handlers{kind=event} 3",
		}
		require.Equal(t, want, lines(t, reg, false))
		require.NotContains(t, strings.Join(lines(t, reg, true), "\n"), "secret")
		require.NoError(t, s.Close(t.Context()))
		synctest.Wait()
		got := lines(t, reg, false, "events_processed_total", "registered_handlers", "open_sessions")
		require.Equal(t, []string{
			"events_processed_total{group=,handler=listener-1,type=order.placed} 1",
			"events_processed_total{group=shop,handler=good,type=order.placed} 2",
			"registered_handlers{kind=command} 1", "registered_handlers{kind=event} 2",
		}, got, "a counter outlives what it counts")
	})
}

// A breaker's state is read when it is scraped, so it is half-open on time though
// nothing was sent.
func TestBreakers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBus(t, bus.Config{CommandBreaker: &resilience.Breaker{}})
		_, reg := register(t, b, metrics.Config{PollInterval: -1})
		state := func(want int) {
			t.Helper()
			require.Equal(t, []string{fmt.Sprintf("circuit_breaker_state{group=,kind=command,type=order.place} %d", want)}, lines(t, reg, true, "circuit_breaker_state"))
			require.EqualValues(t, want, metrics.Snapshot(b).Gauges["circuit_breaker_state"].Value)
		}
		fail := func(how string) {
			for range 10 {
				_ = bus.Do(context.Background(), b, place{Fail: how})
			}
		}
		fail("")
		state(0)
		fail("panic")
		state(1)
		time.Sleep(time.Hour)
		state(2)
		fail("")
		state(0)
		require.Equal(t, []string{"circuit_breaker_opened_total{group=,kind=command,type=order.place} 1"}, lines(t, reg, true, "circuit_breaker_opened"))
		require.Contains(t, lines(t, reg, true, "command_errors"), "command_errors_total{reason=circuit_open,type=order.place} 5")
	})
}

// What a group has before it is shown, whoever reads it.
func TestGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBus(t, bus.Config{})
		_, reg := register(t, b, metrics.Config{})
		sub, err := bus.Subscribe(t.Context(), b, func(context.Context, order) error { return nil }, bus.WithGroup("away"))
		require.NoError(t, err)
		require.NoError(t, sub.Close(t.Context()))
		require.NoError(t, bus.Publish(t.Context(), b, order{}))
		time.Sleep(15*time.Second + time.Millisecond)
		require.Equal(t, []string{
			"group_pending_events{group=away,type=order.placed} 1",
			"group_pending_events{group=mailer,type=order.placed} 0",
			"group_pending_events{group=shop,type=order.placed} 0",
		}, lines(t, reg, true, "group_pending"))
		require.NoError(t, b.RetireGroup(t.Context(), "away", "order.placed"))
		time.Sleep(16 * time.Second)
		require.NotContains(t, strings.Join(lines(t, reg, true), "\n"), "group_pending_events{group=away")
	})
}

// A queue that is nearly full.
func TestQueues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBus(t, bus.Config{QueueSize: 10, BatchTimeout: time.Minute, BatchSize: 100, Backpressure: bus.Backpressure{Strategy: bus.DropOldest}})
		_, reg := register(t, b, metrics.Config{PollInterval: -1})
		fill := func(n int) {
			for range n {
				_, _ = bus.PublishAsync(t.Context(), b, order{})
			}
		}
		fill(7)
		require.Equal(t, []string{"backpressure_active{queue=publish} 0"}, lines(t, reg, true, "backpressure_active"))
		fill(1)
		require.Equal(t, []string{"backpressure_active{queue=publish} 1", "backpressure_raised_total{queue=publish} 1",
			"queue_capacity{queue=publish} 10", "queue_size{queue=publish} 8"}, lines(t, reg, false, "backpressure", "queue"))
		require.EqualValues(t, 1, metrics.Snapshot(b).Gauges["backpressure_active"].Value)
		_ = b.Flush(t.Context())
		require.Equal(t, []string{"backpressure_active{queue=publish} 0", "queue_size{queue=publish} 0"}, lines(t, reg, true, "backpressure_active", "queue_size"))
	})
}

// What a session's queue has dropped counts on when the session is over.
func TestQueuesOfSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBus(t, bus.Config{})
		_, reg := register(t, b, metrics.Config{PollInterval: -1})
		for i := range 3 {
			s, err := b.Session(t.Context(), fmt.Sprint("s", i))
			require.NoError(t, err)
			_, err = bus.Subscribe(t.Context(), s, func(context.Context, order) error { time.Sleep(time.Second); return nil },
				bus.WithName("cache"), bus.WithConcurrency(1), bus.WithQueue(1, bus.DropOldest))
			require.NoError(t, err)
			for range 5 {
				require.NoError(t, bus.Publish(t.Context(), s, order{}))
				time.Sleep(time.Millisecond)
			}
			require.Equal(t, []string{
				fmt.Sprintf("queue_dropped_total{queue=order.placed/cache} %d", 3*(i+1)), "queue_dropped_total{queue=publish} 0",
				"queue_size{queue=order.placed/cache} 1", "queue_size{queue=publish} 0",
			}, lines(t, reg, true, "queue_dropped", "queue_size"))
			require.NoError(t, s.Close(t.Context()))
			require.Equal(t, []string{fmt.Sprintf("queue_dropped_total{queue=order.placed/cache} %d", 3*(i+1))}, lines(t, reg, false, "queue_dropped", "queue_size"))
		}
	})
}

func TestNamespaceAndConstLabels(t *testing.T) {
	one, two := newBus(t, bus.Config{}), newBus(t, bus.Config{})
	reg := prometheus.NewPedanticRegistry()
	a, err := metrics.Register(reg, one, metrics.Config{Namespace: "jitney", ConstLabels: prometheus.Labels{"bus": "one"}, PollInterval: -1})
	require.NoError(t, err)
	_, err = metrics.Register(reg, two, metrics.Config{Namespace: "jitney", ConstLabels: prometheus.Labels{"bus": "one"}, PollInterval: -1})
	require.ErrorContains(t, err, "duplicate")
	require.Empty(t, two.Meters(), "nothing is left of what was refused")
	c, err := metrics.Register(reg, two, metrics.Config{Namespace: "jitney", ConstLabels: prometheus.Labels{"bus": "two"}, PollInterval: -1})
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, bus.Do(context.Background(), one, place{}))
	require.Equal(t, []string{
		"jitney_commands_sent_total{bus=one,type=order.place} 1",
		"jitney_commands_sent_total{bus=two,type=order.place} 0",
	}, lines(t, reg, true, "jitney_commands_sent"))
	require.EqualValues(t, 1, metrics.Snapshot(one).Counters["commands_sent_total"].Value)
	a.Close()
	a.Close()
	require.Empty(t, one.Meters())
	require.Equal(t, []string{"jitney_commands_sent_total{bus=two,type=order.place} 0"}, lines(t, reg, true, "jitney_commands_sent"))
}

func TestConfig(t *testing.T) {
	b := newBus(t, bus.Config{})
	for want, cfg := range map[string]metrics.Config{
		"Namespace":    {Namespace: "a-b"},
		"ConstLabels":  {ConstLabels: prometheus.Labels{"type": "x"}},
		"MaxHandlers":  {MaxHandlers: 10_001},
		"PollInterval": {PollInterval: time.Millisecond},
	} {
		_, err := metrics.Register(nil, b, cfg)
		require.ErrorContains(t, err, "metrics: Config."+want)
	}
	_, err := metrics.Register(nil, nil, metrics.Config{})
	require.ErrorContains(t, err, "bus is nil")
}

// However many handlers there are, there are no more series than was said.
func TestLabelsAreBounded(t *testing.T) {
	b := newBus(t, bus.Config{})
	_, reg := register(t, b, metrics.Config{MaxHandlers: 5, PollInterval: -1})
	for i := range 20 {
		_, err := bus.Subscribe(t.Context(), b, func(context.Context, order) error { return nil }, bus.WithName(fmt.Sprint("h", i)), bus.WithGroup(fmt.Sprint("g", i)))
		require.NoError(t, err)
	}
	before := len(lines(t, reg, true, "events_processed_total", "commands_processed_total", "event_processing", "command_processing"))
	require.LessOrEqual(t, before, 2*(5+2))
	require.Contains(t, lines(t, reg, true), "events_processed_total{group=other,handler=other,type=other} 0")
	require.Contains(t, lines(t, reg, true), "event_processing_duration_seconds{group=other,handler=other,type=other} 0")
	require.Equal(t, []string{"registered_handlers{kind=command} 1", "registered_handlers{kind=event} 22"}, lines(t, reg, true, "registered"))
}

// counting counts the calls for dead letters, and refuses them when asked to.
type counting struct {
	*memory.Transport
	asked atomic.Int64
	down  atomic.Bool
}

func (c *counting) DeadLetters() transport.DeadLetters {
	return countingLetters{c.Transport.DeadLetters(), c}
}

type countingLetters struct {
	transport.DeadLetters
	c *counting
}

func (l countingLetters) Stats(ctx context.Context) (transport.DeadLetterStats, error) {
	l.c.asked.Add(1)
	if l.c.down.Load() {
		return transport.DeadLetterStats{}, transport.ErrUnavailable
	}
	return l.DeadLetters.Stats(ctx)
}

func TestPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &counting{Transport: memory.New(memory.Config{})}
		b, err := bus.New(tr, bus.Config{Service: "shop"})
		require.NoError(t, err)
		m, reg := register(t, b, metrics.Config{PollInterval: time.Minute})
		synctest.Wait()
		require.EqualValues(t, 1, tr.asked.Load())
		for range 10 {
			require.Equal(t, []string{"dead_letter_queue_size{} 0"}, lines(t, reg, true, "dead_letter_queue_size"))
		}
		require.EqualValues(t, 1, tr.asked.Load(), "a scrape asks nobody")
		require.Equal(t, []string{"polls_failed_total{what=dead_letters} 0", "polls_failed_total{what=groups} 0", "polls_failed_total{what=sessions} 0"}, lines(t, reg, true, "polls"))
		time.Sleep(10*time.Minute + time.Second)
		require.EqualValues(t, 11, tr.asked.Load())
		tr.down.Store(true)
		time.Sleep(3 * time.Minute)
		require.NotEmpty(t, lines(t, reg, true, "dead_letter_queue_size"))
		time.Sleep(3 * time.Minute)
		require.Empty(t, lines(t, reg, true, "dead_letter_queue_size"), "an old answer is no answer")
		require.Equal(t, []string{"polls_failed_total{what=dead_letters} 6"}, lines(t, reg, false, "polls"))
		tr.down.Store(false)
		time.Sleep(time.Minute)
		require.NotEmpty(t, lines(t, reg, true, "dead_letter_queue_size"))
		require.NoError(t, b.Close(context.Background()))
		time.Sleep(time.Hour)
		asked := tr.asked.Load()
		time.Sleep(time.Hour)
		require.Equal(t, asked, tr.asked.Load(), "a closed bus is not polled")
		require.NotEmpty(t, lines(t, reg, true, "events_published_total", "registered_handlers"), "and is shown all the same")
		m.Close()
	})
}

func TestHandler(t *testing.T) {
	b := newBus(t, bus.Config{})
	m, err := metrics.Register(nil, b, metrics.Config{})
	require.NoError(t, err)
	defer m.Close()
	require.NoError(t, bus.Do(context.Background(), b, place{}))
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	require.Equal(t, 200, w.Code)
	require.Contains(t, w.Body.String(), `commands_sent_total{type="order.place"} 1`)
	require.Contains(t, w.Body.String(), `command_processing_duration_seconds_count{handler="shop",type="order.place"} 1`)
}

func TestSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBus(t, bus.Config{})
		require.NoError(t, bus.Do(context.Background(), b, place{}))
		bare := metrics.Snapshot(b)
		require.EqualValues(t, 1, bare.Counters["commands_processed_total"].Value)
		require.Empty(t, bare.Histograms, "nobody measures")

		register(t, b, metrics.Config{})
		require.NoError(t, bus.Handle(t.Context(), b, func(_ context.Context, s sleep) (bus.None, error) {
			time.Sleep(s.For)
			return bus.None{}, nil
		}))
		for i := range 100 {
			_, err := bus.Execute(context.Background(), b, sleep{For: time.Duration(i+1) * time.Millisecond})
			require.NoError(t, err)
		}
		require.NoError(t, bus.Do(context.Background(), b, place{}))
		s := metrics.Snapshot(b)
		require.EqualValues(t, 2, s.Counters["commands_processed_total"].Series[0].Value)
		require.Equal(t, map[string]string{"type": "order.place", "handler": "shop"}, s.Counters["commands_processed_total"].Series[0].Labels)
		require.NotEmpty(t, s.Counters["commands_processed_total"].Description)
		h := s.Histograms["command_processing_duration_seconds"]
		require.EqualValues(t, 101, h.Count)
		require.InDelta(t, 5.05, h.Sum, 0.001)
		for p, want := range map[string]float64{"p50": 0.050, "p95": 0.095, "p99": 0.099} {
			require.InEpsilon(t, want, h.Percentiles[p], 0.06, p)
		}
		require.Len(t, h.Series, 2)
		require.Len(t, h.Buckets, 20)
		require.EqualValues(t, 101, h.Buckets[19].Count)
		require.True(t, slices.IsSortedFunc(h.Buckets, func(a, b metrics.Bucket) int { return int(a.Count) - int(b.Count) }))
		require.EqualValues(t, 4, s.Gauges["registered_handlers"].Value)

		text, err := json.Marshal(s)
		require.NoError(t, err)
		var again metrics.Report
		require.NoError(t, json.Unmarshal(text, &again))
		textAgain, err := json.Marshal(again)
		require.NoError(t, err)
		require.JSONEq(t, string(text), string(textAgain))
	})
}

type sleep struct {
	bus.Command[bus.None]
	For time.Duration
}

func (sleep) MessageName() string { return "sleep" }

// Measuring allocates nothing.
func TestAllocations(t *testing.T) {
	b := newBus(t, bus.Config{})
	run := func() { _ = bus.Do(context.Background(), b, place{}) }
	before := testing.AllocsPerRun(100, run)
	register(t, b, metrics.Config{PollInterval: -1})
	require.Equal(t, before, testing.AllocsPerRun(100, run))
}
