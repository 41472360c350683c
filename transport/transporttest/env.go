package transporttest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

// env is what one case works with: its backend, its waits, and the steps that
// cases share. Its methods end the case when a step fails, so they are for the
// case's own goroutine.
type env struct {
	t         *testing.T
	features  Features
	backend   func(t *testing.T) transport.Transport
	inProcess bool // the transport carries values, not bodies
	made      int  // messages made by event and command

	limit   time.Duration // far above what any step needs
	ackWait time.Duration // the subscriptions' AckWait
	quiet   time.Duration // how long "nothing comes" is watched
	delay   time.Duration // for Nak and DeliverAt; above ackWait
	gap     time.Duration // how long a group is without readers
	ttl     time.Duration // of keys that are to expire
}

func newEnv(t *testing.T, c Config) *env {
	unit := c.Features.AckWait
	if unit <= 0 {
		unit = time.Second
	}
	e := &env{t: t, features: c.Features, limit: 20 * time.Second, ackWait: unit, quiet: unit * 3 / 10,
		delay: unit * 3 / 2, gap: 6 * unit, ttl: time.Second}
	if c.Features.Bubble {
		e.limit, e.ackWait, e.quiet = 4*time.Hour, 30*time.Second, 5*time.Minute
		e.delay, e.gap, e.ttl = 20*time.Minute, time.Hour, 10*time.Second
	}
	e.backend = c.Backend(t)
	return e
}

// open opens one more process.
func (e *env) open() transport.Transport {
	e.t.Helper()
	tr := e.backend(e.t)
	require.NotNil(e.t, tr, "open returned no transport")
	p, ok := tr.(transport.InProcess)
	e.inProcess = ok && p.InProcess()
	e.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), e.limit)
		defer cancel()
		if err := tr.Close(ctx); err != nil {
			e.t.Errorf("close: %v", err)
		}
	})
	return tr
}

// ctx is a context that no healthy step outlasts.
func (e *env) ctx() context.Context {
	ctx, cancel := context.WithTimeout(e.t.Context(), e.limit)
	e.t.Cleanup(cancel)
	return ctx
}

// pass lets time go by, where time is what the case is about.
func (e *env) pass(d time.Duration) { time.Sleep(d) }

// event makes an event with an ID of its own and the text as its content.
func (e *env) event(name, text string) *transport.Message {
	e.made++
	m := &transport.Message{To: transport.Address{Name: name}, ID: fmt.Sprintf("id-%d", e.made)}
	e.fill(m, text)
	return m
}

// events makes n events with the texts "0" to "n-1".
func (e *env) events(name string, n int) []*transport.Message {
	ms := make([]*transport.Message, n)
	for i := range ms {
		ms[i] = e.event(name, fmt.Sprint(i))
	}
	return ms
}

// fill gives m its content, the way the transport carries it.
func (e *env) fill(m *transport.Message, text string) {
	if e.inProcess {
		m.Value = text
	} else {
		m.Body = []byte(text)
	}
}

// text is the content of m.
func text(m *transport.Message) string {
	if s, ok := m.Value.(string); ok {
		return s
	}
	return string(m.Body)
}

func texts(ds []transport.Delivery) []string {
	s := make([]string, len(ds))
	for i, d := range ds {
		s[i] = text(d.Message())
	}
	return s
}

// numbers is "from" to "to", the texts of events.
func numbers(from, to int) []string {
	var s []string
	for i := from; i <= to; i++ {
		s = append(s, fmt.Sprint(i))
	}
	return s
}

func (e *env) publish(tr transport.Transport, ms ...*transport.Message) {
	e.t.Helper()
	require.NoError(e.t, tr.Publish(e.ctx(), ms...), "publish")
}

// group subscribes a reader of a group with the case's AckWait.
func (e *env) group(tr transport.Transport, name, group string) transport.Source[transport.Delivery] {
	e.t.Helper()
	return e.subscribe(tr, transport.Subscription{Name: name, Group: group, AckWait: e.ackWait})
}

// steady is group for a case that is not about leases, on a machine however busy:
// nothing comes again because time has passed, or goes back unread.
func (e *env) steady(tr transport.Transport, name, group string) transport.Source[transport.Delivery] {
	e.t.Helper()
	return e.subscribe(tr, transport.Subscription{Name: name, Group: group, AckWait: time.Hour})
}

func (e *env) private(tr transport.Transport, name string) transport.Source[transport.Delivery] {
	e.t.Helper()
	return e.subscribe(tr, transport.Subscription{Name: name})
}

func (e *env) subscribe(tr transport.Transport, s transport.Subscription) transport.Source[transport.Delivery] {
	e.t.Helper()
	src, err := tr.Subscribe(e.ctx(), s)
	require.NoError(e.t, err, "subscribe")
	return src
}

func (e *env) serve(tr transport.Transport, at transport.Endpoint) transport.Source[transport.Request] {
	e.t.Helper()
	src, err := tr.Serve(e.ctx(), at)
	require.NoError(e.t, err, "serve")
	return src
}

// next takes the next delivery.
func (e *env) next(src transport.Source[transport.Delivery]) transport.Delivery {
	e.t.Helper()
	d, err := src.Next(e.ctx())
	require.NoError(e.t, err, "next delivery")
	return d
}

// take takes n deliveries and acks each.
func (e *env) take(src transport.Source[transport.Delivery], n int) []transport.Delivery {
	e.t.Helper()
	ds := make([]transport.Delivery, n)
	for i := range ds {
		ds[i] = e.next(src)
		e.ack(ds[i])
	}
	return ds
}

func (e *env) ack(d transport.Delivery) {
	e.t.Helper()
	require.NoError(e.t, d.Ack(e.ctx()), "ack")
}

func (e *env) request(src transport.Source[transport.Request]) transport.Request {
	e.t.Helper()
	r, err := src.Next(e.ctx())
	require.NoError(e.t, err, "next request")
	return r
}

func (e *env) close(src interface{ Close(context.Context) error }) {
	e.t.Helper()
	require.NoError(e.t, src.Close(e.ctx()), "close source")
}

// nothing checks that no delivery comes for as long as the case watches.
func (e *env) nothing(src transport.Source[transport.Delivery]) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), e.quiet)
	defer cancel()
	d, err := src.Next(ctx)
	if err == nil {
		require.Failf(e.t, "unexpected delivery", "%q, delivery %d", text(d.Message()), d.Deliveries())
	}
	require.ErrorIs(e.t, err, context.DeadlineExceeded)
}

// start runs f beside the case and returns where its error arrives.
func start(f func() error) <-chan error {
	c := make(chan error, 1)
	go func() { c <- f() }()
	return c
}

// result waits for what start began.
func (e *env) result(c <-chan error) error {
	e.t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(e.limit):
		require.Fail(e.t, "still waiting after "+e.limit.String())
		return nil
	}
}
