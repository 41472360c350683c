package integration_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/tracing"
	"github.com/jitney-bus/jitney/transport"
)

// traced is what one process exports.
type traced struct {
	*tracetest.InMemoryExporter
	provider *sdk.TracerProvider
	tracing  *tracing.Tracing
}

func newTraced(cfg tracing.Config) *traced {
	t := &traced{InMemoryExporter: tracetest.NewInMemoryExporter()}
	t.provider = sdk.NewTracerProvider(sdk.WithSyncer(t))
	cfg.TracerProvider = t.provider
	t.tracing = tracing.New(cfg)
	return t
}

// span returns the n-th span of that name.
func (p *traced) span(w *world.World, name string, n int) tracetest.SpanStub {
	w.Helper()
	var all tracetest.SpanStubs
	for _, s := range p.GetSpans() {
		if s.Name == name {
			all = append(all, s)
		}
	}
	require.Greater(w, len(all), n, "%s in %v", name, p.names())
	return all[n]
}

func (p *traced) names() (names []string) {
	for _, s := range p.GetSpans() {
		names = append(names, s.SpanKind.String()+" "+s.Name)
	}
	return names
}

func attributes(s tracetest.SpanStub) map[string]any {
	m := map[string]any{}
	for _, kv := range s.Attributes {
		m[string(kv.Key)] = kv.Value.AsInterface()
	}
	return m
}

func requireChild(w *world.World, parent, child tracetest.SpanStub) {
	w.Helper()
	require.Equal(w, parent.SpanContext.SpanID(), child.Parent.SpanID(), "%s is no child of %s", child.Name, parent.Name)
	require.Equal(w, parent.SpanContext.TraceID(), child.SpanContext.TraceID())
}

// One command and the event that its handler publishes: four spans in two
// processes, and each knows only its own.
func TestTraceAcrossProcesses(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		front, back := newTraced(tracing.Config{}), newTraced(tracing.Config{})
		caller := w.Bus(front.tracing.Instrument(bus.Config{Service: "front"}))
		server := w.Bus(back.tracing.Instrument(bus.Config{}))
		type key struct{}
		require.NoError(w, bus.Handle(w.Context(), server, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			require.Nil(w, ctx.Value(key{}), "the caller's values stay behind")
			return "u1", bus.Publish(ctx, server, world.UserCreated{ID: "u1"})
		}))
		got := world.NewRecord[bool]()
		_, err := bus.Subscribe(w.Context(), caller, func(ctx context.Context, _ world.UserCreated) error {
			got.Add(trace.SpanContextFromContext(ctx).IsValid())
			return nil
		}, bus.WithName("mail"))
		require.NoError(w, err)
		ctx, root := front.provider.Tracer("test").Start(context.WithValue(w.Context(), key{}, 1), "order")
		_, err = bus.Execute(ctx, caller, world.CreateUser{Name: "ada"}, bus.WithID("c1"))
		require.NoError(w, err)
		root.End()
		require.Equal(w, []bool{true}, got.Wait(w, 1))
		world.Settle(time.Second)

		require.ElementsMatch(w, []string{"client execute user.create", "internal order", "consumer handle user.created"}, front.names())
		require.ElementsMatch(w, []string{"producer publish user.created", "server handle user.create"}, back.names())
		execute, handle := front.span(w, "execute user.create", 0), back.span(w, "handle user.create", 0)
		publish, consume := back.span(w, "publish user.created", 0), front.span(w, "handle user.created", 0)
		requireChild(w, front.span(w, "order", 0), execute)
		requireChild(w, execute, handle)
		requireChild(w, handle, publish)
		requireChild(w, publish, consume)
		require.True(w, handle.Parent.IsRemote())
		require.Empty(w, consume.Links)

		require.Equal(w, map[string]any{
			"messaging.system": "jitney", "messaging.operation.name": "execute", "messaging.operation.type": "send",
			"messaging.destination.name": "user.create", "messaging.message.id": "c1",
		}, without(attributes(execute), "messaging.message.conversation_id"))
		event := attributes(publish)["messaging.message.id"]
		require.Equal(w, map[string]any{
			"messaging.system": "jitney", "messaging.operation.name": "handle", "messaging.operation.type": "process",
			"messaging.destination.name": "user.created", "messaging.message.id": event, "messaging.message.conversation_id": "c1",
			"messaging.consumer.group.name": "front", "jitney.handler": "mail", "jitney.attempt": int64(1),
		}, attributes(consume))
		for _, s := range slices.Concat(front.GetSpans(), back.GetSpans()) {
			require.Equal(w, codes.Unset, s.Status.Code, s.Name)
		}
	})
}

func without(m map[string]any, keys ...string) map[string]any {
	for _, k := range keys {
		delete(m, k)
	}
	return m
}

func TestTraceHeadersAreLowerCase(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		defer tr.Close(context.Background())
		sent := func(cfg tracing.Config, ctx context.Context) transport.Header {
			src, err := tr.Subscribe(w.Context(), transport.Subscription{Name: "user.created"})
			require.NoError(w, err)
			defer src.Close(context.Background())
			b := w.Bus(newTraced(cfg).tracing.Instrument(bus.Config{}))
			require.NoError(w, bus.Publish(ctx, b, world.UserCreated{}, bus.WithHeader("Tenant", "t1")))
			wait, cancel := context.WithTimeout(w.Context(), time.Minute)
			defer cancel()
			d, err := src.Next(wait)
			require.NoError(w, err)
			require.NoError(w, d.Ack(wait))
			return d.Message().Header
		}
		secret, err := baggage.NewMember("tenant", "acme")
		require.NoError(w, err)
		bag, err := baggage.New(secret)
		require.NoError(w, err)
		state, err := trace.ParseTraceState("vendor=1")
		require.NoError(w, err)
		ctx := baggage.ContextWithBaggage(w.Context(), bag)
		ctx = trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, TraceState: state}))

		h := sent(tracing.Config{}, ctx)
		require.Regexp(w, `^00-01000000000000000000000000000000-[0-9a-f]{16}-01$`, h.Get("traceparent"))
		require.Equal(w, "vendor=1", h.Get("tracestate"))
		require.Equal(w, "t1", h.Get("Tenant"))
		require.NotContains(w, h, "baggage", "it is opt-in")
		both := propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
		require.Equal(w, "tenant=acme", sent(tracing.Config{Propagator: both}, ctx).Get("baggage"))

		// What the bus would refuse stays behind.
		large, err := baggage.NewMember("large", strings.Repeat("x", 5000))
		require.NoError(w, err)
		bag, err = bag.SetMember(large)
		require.NoError(w, err)
		h = sent(tracing.Config{Propagator: both}, baggage.ContextWithBaggage(ctx, bag))
		require.NotContains(w, h, "baggage")
		require.Contains(w, h, "traceparent")
	})
}

func TestTraceOfFailures(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		p := newTraced(tracing.Config{})
		tr := w.Open()
		b := w.BusOn(tr, p.tracing.Instrument(bus.Config{Retry: quick}))
		fixed := false
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
			switch m, _ := bus.MetaFrom(ctx); {
			case fixed:
				return nil
			case m.Attempt == 1:
				return world.ErrOops
			}
			panic("boom")
		}, bus.WithName("mail"))
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithID("e1")))
		w.DeadLetters(tr, 1)
		world.Settle(time.Second)
		publish := p.span(w, "publish user.created", 0)
		first, second := p.span(w, "handle user.created", 0), p.span(w, "handle user.created", 1)
		retry, dead := p.span(w, "retry user.created", 0), p.span(w, "dead-letter user.created", 0)
		requireChild(w, publish, first)
		requireChild(w, publish, second)
		requireChild(w, first, retry)
		requireChild(w, second, dead)
		require.Len(w, second.Links, 1)
		require.Equal(w, first.SpanContext.SpanID(), second.Links[0].SpanContext.SpanID(), "the run before")
		for s, code := range map[*tracetest.SpanStub]string{&first: "failed", &second: "panic", &retry: "failed", &dead: "panic"} {
			require.Equal(w, codes.Error, s.Status.Code, s.Name)
			require.Equal(w, code, attributes(*s)["error.type"], s.Name)
			require.Len(w, s.Events, 1)
			require.Equal(w, "exception", s.Events[0].Name)
		}
		require.Equal(w, "oops", first.Status.Description)
		require.Equal(w, int64(2), attributes(second)["jitney.attempt"])
		require.Contains(w, fmt.Sprint(second.Events[0].Attributes), "tracing_test.go", "the panic's stack")
		require.Equal(w, int64(1000), attributes(retry)["jitney.delay_ms"])
		require.Equal(w, "settle", attributes(dead)["messaging.operation.type"])
		require.Equal(w, codes.Unset, publish.Status.Code)

		fixed = true
		report, err := b.DeadLetters().RedriveAll(w.Context(), bus.DeadLetterFilter{Name: "user.created"})
		require.NoError(w, err)
		require.Equal(w, 1, report.Redriven)
		world.Settle(10 * time.Second)
		third := p.span(w, "handle user.created", 2)
		require.NotEqual(w, publish.SpanContext.TraceID(), third.SpanContext.TraceID(), "a trace of its own")
		require.Len(w, third.Links, 1)
		require.Equal(w, publish.SpanContext.SpanID(), third.Links[0].SpanContext.SpanID())
		require.Equal(w, int64(1), attributes(third)["jitney.generation"])
	})
}

func TestTraceOfAFailedCommand(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		p := newTraced(tracing.Config{})
		b := w.Bus(p.tracing.Instrument(bus.Config{}))
		require.NoError(w, bus.Handle(w.Context(), b, func(context.Context, world.CreateUser) (world.UserID, error) { return "", world.ErrOops }))
		_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"})
		require.Error(w, err)
		require.ElementsMatch(w, []string{"server handle user.create", "client execute user.create"}, p.names())
		for _, s := range p.GetSpans() {
			require.Equal(w, codes.Error, s.Status.Code)
			require.Equal(w, "failed", attributes(s)["error.type"])
		}
	})
}

func TestTraceOfABatch(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		p := newTraced(tracing.Config{})
		b := w.Bus(p.tracing.Instrument(bus.Config{Retry: quick}))
		runs := world.NewRecord[int]()
		_, err := bus.SubscribeBatch(w.Context(), b, func(_ context.Context, events []world.UserCreated) error {
			runs.Add(len(events))
			if len(runs.All()) == 1 {
				return bus.ItemErrors{1: world.ErrOops}
			}
			return nil
		}, bus.WithName("all"))
		require.NoError(w, err)
		require.NoError(w, bus.PublishAll(w.Context(), b, world.UserCreated{ID: "a"}, world.UserCreated{ID: "b"}, world.UserCreated{ID: "c"}))
		require.Equal(w, []int{3, 1}, runs.Wait(w, 2))
		world.Settle(time.Second)
		batch := p.span(w, "handle user.created", 0)
		require.Equal(w, int64(3), attributes(batch)["messaging.batch.message_count"])
		require.Equal(w, codes.Error, batch.Status.Code)
		require.False(w, batch.Parent.IsValid(), "a trace of its own")
		require.Len(w, batch.Links, 3)
		for i := range 3 {
			create, store := p.span(w, "create user.created", i), p.span(w, "publish user.created", i)
			require.Equal(w, trace.SpanKindProducer, create.SpanKind)
			require.Equal(w, trace.SpanKindClient, store.SpanKind)
			require.Equal(w, "create", attributes(create)["messaging.operation.type"])
			requireChild(w, create, store)
			require.Equal(w, create.SpanContext.SpanID(), batch.Links[i].SpanContext.SpanID())
		}
		requireChild(w, batch, p.span(w, "retry user.created", 0))
	})
}

// What becomes of a queued event is told by a span of its own.
func TestTraceOfWhatIsQueued(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		p := newTraced(tracing.Config{})
		tr := world.NewFaulty(w.Open())
		b := w.BusOn(tr, p.tracing.Instrument(bus.Config{BatchTimeout: 3 * time.Second}))
		tr.Set(world.Failing("publish", transport.ErrUnavailable))
		pending, err := bus.PublishAsync(w.Context(), b, world.UserCreated{})
		require.NoError(w, err)
		require.Error(w, pending.Wait(w.Context()))
		world.Settle(time.Second)
		create, store := p.span(w, "create user.created", 0), p.span(w, "publish user.created", 0)
		requireChild(w, create, store)
		require.Equal(w, codes.Unset, create.Status.Code)
		require.Equal(w, codes.Error, store.Status.Code)
		require.Equal(w, "unavailable", attributes(store)["error.type"])
		require.GreaterOrEqual(w, store.EndTime.Sub(store.StartTime), 3*time.Second)
	})
}

func TestTracesOfTheirOwnWithLinks(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		p := newTraced(tracing.Config{Links: true})
		b := w.Bus(p.tracing.Instrument(bus.Config{}))
		_, err := bus.Subscribe(w.Context(), b, attempts(world.NewRecord[int](), succeed))
		require.NoError(w, err)
		require.NoError(w, bus.Handle(w.Context(), b, world.Create))
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"})
		require.NoError(w, err)
		world.Settle(time.Second)
		publish, consume := p.span(w, "publish user.created", 0), p.span(w, "handle user.created", 0)
		require.False(w, consume.Parent.IsValid())
		require.Equal(w, publish.SpanContext.SpanID(), consume.Links[0].SpanContext.SpanID())
		requireChild(w, p.span(w, "execute user.create", 0), p.span(w, "handle user.create", 0))
	})
}

// A process without an SDK passes on the context that it got.
func TestTracePassesThrough(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		p := newTraced(tracing.Config{})
		middle := tracing.New(tracing.Config{TracerProvider: noop.NewTracerProvider()})
		b := w.Bus(middle.Instrument(bus.Config{}))
		last := w.Bus(p.tracing.Instrument(bus.Config{Service: "last"}))
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
			return "", bus.Publish(ctx, b, world.UserCreated{})
		}))
		_, err := bus.Subscribe(w.Context(), last, attempts(world.NewRecord[int](), succeed))
		require.NoError(w, err)
		_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"}, bus.WithHeader("Traceparent", "00-01000000000000000000000000000000-0200000000000000-01"))
		require.NoError(w, err)
		world.Settle(time.Second)
		s := p.span(w, "handle user.created", 0)
		require.Equal(w, trace.TraceID{1}, s.SpanContext.TraceID())
		require.Equal(w, trace.SpanID{2}, s.Parent.SpanID())
	})
}

func TestTraceRemembersFewFailures(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		if !w.InProcess {
			return
		}
		p := newTraced(tracing.Config{})
		b := w.Bus(p.tracing.Instrument(bus.Config{}))
		_, err := bus.Subscribe(w.Context(), b, func(context.Context, world.UserCreated) error { return bus.RetryAfter(time.Hour, world.ErrOops) })
		require.NoError(w, err)
		for range 5000 { // more than are remembered
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		}
		world.Settle(time.Minute)
		require.Len(w, slices.DeleteFunc(p.GetSpans(), func(s tracetest.SpanStub) bool { return s.Name != "retry user.created" }), 5000)
	})
}

func TestTraceOfACommandThatIsRetried(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		p := newTraced(tracing.Config{})
		b := w.Bus(p.tracing.Instrument(bus.Config{CommandRetry: &quick}))
		require.NoError(w, bus.Handle(w.Context(), b, func(ctx context.Context, _ world.CreateUser) (world.UserID, error) {
			if m, _ := bus.MetaFrom(ctx); m.Attempt == 1 {
				return "", world.ErrOops
			}
			return "u1", nil
		}))
		_, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "ada"})
		require.NoError(w, err)
		execute, first, second := p.span(w, "execute user.create", 0), p.span(w, "handle user.create", 0), p.span(w, "handle user.create", 1)
		requireChild(w, execute, first)
		requireChild(w, execute, second)
		requireChild(w, first, p.span(w, "retry user.create", 0))
		require.Len(w, second.Links, 1)
		require.Equal(w, first.SpanContext.SpanID(), second.Links[0].SpanContext.SpanID())
		require.Equal(w, codes.Error, first.Status.Code)
		require.Equal(w, codes.Unset, execute.Status.Code)
	})
}
