package security

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/metrics"
	"github.com/jitney-bus/jitney/transport/nats"
)

// OrderMade and Pay are what the roles of docs/permissions.conf are written for.
type OrderMade struct{ ID, Note string }

func (OrderMade) MessageName() string { return "order.made" }

type Pay struct {
	bus.Command[string]
	ID, Note string
}

func (Pay) MessageName() string { return "order.pay" }

// Ship is a command that is not the service's.
type Ship struct {
	bus.Command[string]
	ID string
}

func (Ship) MessageName() string { return "order.ship" }

// canary is in every body, and secretOf in every password: neither is ever told.
const canary = "canary-in-a-body"

// broker is a server with the permissions of docs/permissions.conf, as they stand
// there.
type broker struct {
	*testing.T
	server *server.Server
	url    string
	log    output
}

// output is everything that the buses log, at every level.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (b *broker) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(&b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func newBroker(t *testing.T) *broker {
	for _, role := range []string{"PROVISION", "PUBLISHER", "ORDERS", "SESSION", "OPERATOR"} {
		t.Setenv("JITNEY_"+role, "secret-of-"+role)
	}
	o, err := server.ProcessConfigFile("../../docs/permissions.conf")
	require.NoError(t, err)
	o.Host, o.Port = "127.0.0.1", server.RANDOM_PORT
	o.JetStream, o.StoreDir = true, t.TempDir()
	o.NoLog, o.NoSigs = true, true
	s, err := server.NewServer(o)
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	require.True(t, s.ReadyForConnections(10*time.Second))
	b := &broker{T: t, server: s, url: s.ClientURL()}
	t.Cleanup(func() {
		log := b.log.String()
		require.NotEmpty(t, log)
		require.NotContains(t, log, "secret-of")
		require.NotContains(t, log, canary)
	})
	b.provision()
	return b
}

// connections are those that are open now.
func (b *broker) connections() (ids []uint64) {
	all, err := b.server.Connz(nil)
	require.NoError(b, err)
	for _, c := range all.Conns {
		ids = append(ids, c.Cid)
	}
	return ids
}

func secretOf(role string) string {
	return map[string]string{
		"provision": "secret-of-PROVISION", "publisher": "secret-of-PUBLISHER", "orders": "secret-of-ORDERS",
		"session": "secret-of-SESSION", "operator": "secret-of-OPERATOR",
	}[role]
}

func (b *broker) transport(role string, bind bool) *nats.Transport {
	tr, err := nats.Open(b.Context(), nats.Config{
		URL: b.url, User: role, Password: secretOf(role), InboxPrefix: "_INBOX_" + role, BindOnly: bind,
		Logger: b.logger(),
	})
	require.NoError(b, err, role)
	return tr
}

// bus opens the bus of a role, which creates nothing.
func (b *broker) bus(role string) *bus.Bus { return b.busOf(role, role, true) }

func (b *broker) busOf(role, service string, bind bool) *bus.Bus {
	m, err := bus.New(b.transport(role, bind), bus.Config{Service: service, Logger: b.logger()})
	require.NoError(b, err)
	reg := prometheus.NewRegistry()
	shown, err := metrics.Register(reg, m, metrics.Config{})
	require.NoError(b, err)
	b.Cleanup(func() {
		all, err := reg.Gather()
		require.NoError(b, err)
		text := fmt.Sprint(all, m.Describe(), fmt.Sprintf("%+v", m.Stats()))
		require.Contains(b, text, "queue_capacity")
		require.NotContains(b, text, "secret-of")
		require.NotContains(b, text, canary)
		shown.Close()
		_ = m.Close(context.Background())
	})
	return m
}

// provision makes what the others use: it subscribes once as the group.
func (b *broker) provision() {
	m := b.busOf("provision", "orders", false)
	_, err := bus.Subscribe(b.Context(), m, func(context.Context, OrderMade) error { return nil })
	require.NoError(b, err)
	require.NoError(b, m.Close(b.Context()))
}

// raw is a connection of a role without the bus, to try what it must not.
func (b *broker) raw(role string) *raw {
	r := &raw{broker: b, role: role, errs: make(chan error, 100)}
	nc, err := natsgo.Connect(b.url, natsgo.UserInfo(role, secretOf(role)), natsgo.CustomInboxPrefix("_INBOX_"+role),
		natsgo.ErrorHandler(func(_ *natsgo.Conn, _ *natsgo.Subscription, err error) { r.errs <- err }))
	require.NoError(b, err)
	b.Cleanup(nc.Close)
	r.nc = nc
	return r
}

type raw struct {
	*broker
	role string
	nc   *natsgo.Conn
	errs chan error
}

// denied expects that the server refuses what f does.
func (r *raw) denied(what string, f func() error) {
	r.Helper()
	_ = f()
	_ = r.nc.Flush()
	select {
	case err := <-r.errs:
		require.ErrorIs(r, err, natsgo.ErrPermissionViolation, "%s: %s", r.role, what)
	case <-time.After(5 * time.Second):
		require.Failf(r, "allowed", "%s: %s", r.role, what)
	}
}

func (r *raw) cannotPublish(subjects ...string) {
	r.Helper()
	for _, s := range subjects {
		r.denied("publish to "+s, func() error { return r.nc.Publish(s, []byte("{}")) })
	}
}

func (r *raw) cannotSubscribe(subjects ...string) {
	r.Helper()
	for _, s := range subjects {
		r.denied("subscribe to "+s, func() error { _, err := r.nc.SubscribeSync(s); return err })
	}
	r.cannotServe("jitney.cmd._.order.ship", "jitney")
}

// cannotServe tries to become one of a command's handlers.
func (r *raw) cannotServe(subject, queue string) {
	r.Helper()
	r.denied("serve "+subject+" in "+queue, func() error { _, err := r.nc.QueueSubscribeSync(subject, queue); return err })
}

// forbidden is what no role but the one that makes them may do with streams.
var forbidden = []string{
	"$JS.API.STREAM.DELETE.JITNEY_EVT", "$JS.API.STREAM.PURGE.JITNEY_EVT", "$JS.API.STREAM.UPDATE.JITNEY_EVT",
	"$JS.API.STREAM.CREATE.SPY", "$JS.API.STREAM.DELETE.JITNEY_DLQ", "$JS.API.STREAM.PURGE.JITNEY_DLQ",
	"$JS.API.STREAM.DELETE.KV_JITNEY_STATE", "$JS.API.STREAM.MSG.DELETE.JITNEY_EVT", "$JS.API.STREAM.SNAPSHOT.JITNEY_EVT",
	"$JS.API.CONSUMER.CREATE.JITNEY_EVT.spy", "$JS.API.CONSUMER.DURABLE.CREATE.JITNEY_EVT.spy",
	"$JS.API.CONSUMER.CREATE.JITNEY_DLQ.spy", "$JS.API.CONSUMER.DELETE.JITNEY_EVT.orders=order=made",
	"$JS.API.CONSUMER.PAUSE.JITNEY_EVT.orders=order=made", "$JS.API.STREAM.LEADER.STEPDOWN.JITNEY_EVT",
	"$KV.JITNEY_STATE.owner.order.ship", "jitney.live._.order.made", "jitney.due._.order.made",
}

// spying is what no role may listen to.
var spying = []string{">", "jitney.>", "jitney.live.>", "jitney.live._.order.made", "jitney.live.job-2.>", "jitney.cmd.>",
	"jitney.cmd._.order.pay", "jitney.cmd._.order.ship", "_INBOX.>", "_INBOX_other.>", "$JS.>", "$KV.>", "jitney.dlq.>"}

func TestPublisher(t *testing.T) {
	b := newBroker(t)
	m := b.bus("publisher")
	require.NoError(t, bus.Publish(t.Context(), m, OrderMade{ID: "1", Note: canary}))
	require.NoError(t, bus.PublishAll(t.Context(), m, OrderMade{ID: "2", Note: canary}, OrderMade{ID: "3", Note: canary}))

	// What it may not is an error of its own, and soon.
	soon(t, bus.CodePermission, func(ctx context.Context) error {
		return bus.Publish(bus.ContextWithSession(ctx, "job-1"), m, OrderMade{ID: "4", Note: canary})
	})
	soon(t, bus.CodePermission, func(ctx context.Context) error {
		return bus.Publish(ctx, m, OrderMade{ID: "5", Note: canary}, bus.WithDelay(time.Minute))
	})
	soon(t, bus.CodePermission, func(ctx context.Context) error { return bus.Do(ctx, m, none{}) })
	soon(t, bus.CodePermission, func(ctx context.Context) error {
		_, err := bus.Subscribe(ctx, m, func(context.Context, OrderMade) error { return nil }, bus.WithGroup("orders"))
		return err
	})
	soon(t, bus.CodePermission, func(ctx context.Context) error {
		return bus.Handle(ctx, m, func(context.Context, Pay) (string, error) { return "", nil })
	})
	soon(t, bus.CodePermission, func(ctx context.Context) error {
		_, err := m.DeadLetters().List(ctx, bus.DeadLetterQuery{})
		return err
	})

	r := b.raw("publisher")
	r.cannotPublish(forbidden...)
	r.cannotPublish("jitney.evt.job-1.order.made", "jitney.retry.orders.order.made", "jitney.sched.x", "jitney.cmd._.order.pay",
		"jitney.dlq.x.event.orders.order.made", "$KV.JITNEY_STATE.lease.x", "$KV.JITNEY_STATE.owner.order.pay",
		"$JS.API.CONSUMER.MSG.NEXT.JITNEY_EVT.orders=order=made", "$JS.ACK.JITNEY_EVT.orders=order=made.1.1.1.1.1",
		"$JS.API.STREAM.MSG.GET.JITNEY_EVT", "$JS.API.STREAM.MSG.GET.JITNEY_DLQ", "$JS.API.DIRECT.GET.JITNEY_DLQ")
	r.cannotSubscribe(spying...)
}

type none struct{ bus.Command[bus.None] }

func (none) MessageName() string { return "order.none" }

// soon expects an error of a code long before the deadline.
func soon(t *testing.T, code bus.Code, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := f(ctx)
	require.Error(t, err)
	require.Equal(t, code, bus.CodeOf(err), "%v", err)
	require.NoError(t, ctx.Err(), "the deadline had to pass: %v", err)
	require.NotContains(t, err.Error(), "secret-of")
	require.NotContains(t, err.Error(), canary)
}

func TestWorker(t *testing.T) {
	b := newBroker(t)
	worker := b.bus("orders")
	handled := make(chan string, 10)
	_, err := bus.Subscribe(t.Context(), worker, func(ctx context.Context, e OrderMade) error {
		if e.ID == "bad" {
			return bus.Permanent(errors.New("no such order"))
		}
		if m, _ := bus.MetaFrom(ctx); e.ID == "again" && m.Attempt == 1 {
			return errors.New("try again")
		}
		handled <- e.ID
		return nil
	})
	require.NoError(t, err)
	require.NoError(t, bus.Handle(t.Context(), worker, func(ctx context.Context, c Pay) (string, error) {
		return "paid " + c.ID, bus.Publish(ctx, worker, OrderMade{ID: "of " + c.ID, Note: canary})
	}))
	publisher := b.bus("publisher")
	for _, id := range []string{"bad", "again"} {
		require.NoError(t, bus.Publish(t.Context(), publisher, OrderMade{ID: id, Note: canary}))
	}
	require.Equal(t, "again", next(t, handled), "it was retried")

	// A command of another user, with its result, an idempotency key, and what its
	// handler publishes.
	client := b.bus("session")
	result, err := bus.Execute(t.Context(), client, Pay{ID: "7", Note: canary}, bus.WithIdempotencyKey("pay-7"))
	require.NoError(t, err)
	require.Equal(t, "paid 7", result)
	require.Equal(t, "of 7", next(t, handled))

	// The dead letter is the operator's to see.
	operator := b.bus("operator")
	require.Eventually(t, func() bool {
		n, err := operator.DeadLetters().Count(t.Context(), bus.DeadLetterFilter{})
		require.NoError(t, err)
		return n == 1
	}, 10*time.Second, 10*time.Millisecond)

	soon(t, bus.CodePermission, func(ctx context.Context) error {
		return bus.Handle(ctx, worker, func(context.Context, Ship) (string, error) { return "", nil })
	})
	soon(t, bus.CodePermission, func(ctx context.Context) error {
		_, err := worker.DeadLetters().List(ctx, bus.DeadLetterQuery{})
		return err
	})

	r := b.raw("orders")
	r.cannotPublish(forbidden...)
	r.cannotPublish("jitney.evt.job-1.order.made", "jitney.retry.billing.order.made", "jitney.dlq.x.event.billing.order.made",
		"$JS.API.CONSUMER.MSG.NEXT.JITNEY_EVT.billing=order=made", "$JS.ACK.JITNEY_EVT.billing=order=made.1.1.1.1.1",
		"$KV.JITNEY_STATE.idem.order.ship.x", "$JS.API.STREAM.MSG.GET.JITNEY_EVT", "$JS.API.STREAM.MSG.GET.JITNEY_DLQ",
		"$JS.API.DIRECT.GET.JITNEY_DLQ", "$JS.API.STREAM.MSG.DELETE.JITNEY_DLQ")
	r.cannotSubscribe(spying...)
	// A second executor of its command, outside the queue group of all, runs nothing.
	r.cannotServe("jitney.cmd._.order.pay", "other")
}

func next(t *testing.T, c chan string) string {
	t.Helper()
	select {
	case s := <-c:
		return s
	case <-time.After(20 * time.Second):
		require.Fail(t, "nothing comes")
		return ""
	}
}

func TestSessionClient(t *testing.T) {
	b := newBroker(t)
	m := b.bus("session")
	heard := make(chan string, 10)
	require.NoError(t, bus.InSession(t.Context(), m, "job-1", func(ctx context.Context, s *bus.Session) error {
		_, err := bus.Subscribe(ctx, s, func(_ context.Context, e OrderMade) error {
			heard <- e.ID
			return nil
		})
		require.NoError(t, err)
		return bus.Publish(ctx, s, OrderMade{ID: "mine", Note: canary})
	}))
	require.Equal(t, "mine", next(t, heard))

	soon(t, bus.CodePermission, func(ctx context.Context) error {
		return bus.Publish(bus.ContextWithSession(ctx, "job-2"), m, OrderMade{ID: "not mine", Note: canary})
	})
	soon(t, bus.CodePermission, func(ctx context.Context) error {
		return bus.Publish(ctx, m, OrderMade{ID: "everybody's", Note: canary})
	})
	soon(t, bus.CodePermission, func(ctx context.Context) error {
		_, err := m.Session(ctx, "job-2")
		return err
	})
	soon(t, bus.CodePermission, func(ctx context.Context) error {
		_, err := m.DeadLetters().List(ctx, bus.DeadLetterQuery{})
		return err
	})

	r := b.raw("session")
	r.cannotPublish(forbidden...)
	r.cannotPublish("jitney.evt._.order.made", "jitney.evt.job-2.order.made", "jitney.evt.job-10.order.made", "jitney.cmd.job-2.order.pay",
		"jitney.retry.orders.order.made", "jitney.sched.x", "jitney.dlq.x.event.orders.order.made",
		"$KV.JITNEY_STATE.owner.order.pay", "$KV.JITNEY_STATE.idem.order.pay.x", "$KV.JITNEY_STATE.redrive.x",
		"$JS.API.STREAM.MSG.GET.JITNEY_DLQ", "$JS.API.CONSUMER.MSG.NEXT.JITNEY_EVT.orders=order=made")
	r.cannotSubscribe(spying...)
}

// What a role does after its connection has broken takes no more rights: it reads what
// it has missed, too.
func TestRolesReconnect(t *testing.T) {
	b := newBroker(t)
	worker := b.bus("orders")
	handled := make(chan string, 10)
	_, err := bus.Subscribe(t.Context(), worker, func(_ context.Context, e OrderMade) error { handled <- e.ID; return nil })
	require.NoError(t, err)
	require.NoError(t, bus.Handle(t.Context(), worker, func(_ context.Context, c Pay) (string, error) { return "paid " + c.ID, nil }))
	heard := make(chan string, 10)
	client := b.bus("session")
	session, err := client.Session(t.Context(), "job-1")
	require.NoError(t, err)
	_, err = bus.Subscribe(t.Context(), session, func(_ context.Context, e OrderMade) error { heard <- e.ID; return nil })
	require.NoError(t, err)
	publisher, operator := b.bus("publisher"), b.bus("operator")

	for i := range 3 {
		broken := b.connections()
		other := b.bus("session") // in the same session, with a connection that is whole
		for _, id := range broken {
			require.NoError(t, b.server.DisconnectClientByID(id))
		}
		missed := fmt.Sprint("missed ", i)
		require.NoError(t, bus.Publish(bus.ContextWithSession(t.Context(), "job-1"), other, OrderMade{ID: missed, Note: canary}))
		require.Equal(t, missed, next(t, heard))
		require.Equal(t, missed, next(t, handled), "a group hears every session")
		require.NoError(t, bus.Publish(t.Context(), session, OrderMade{ID: "own", Note: canary}))
		require.Equal(t, "own", next(t, heard))
		require.Equal(t, "own", next(t, handled))

		require.NoError(t, bus.Publish(t.Context(), publisher, OrderMade{ID: "everybody's", Note: canary}))
		require.Equal(t, "everybody's", next(t, handled))
		result, err := bus.Execute(t.Context(), client, Pay{ID: "7", Note: canary}, bus.WithTimeout(20*time.Second))
		require.NoError(t, err)
		require.Equal(t, "paid 7", result)
		n, err := operator.DeadLetters().Count(t.Context(), bus.DeadLetterFilter{})
		require.NoError(t, err)
		require.Zero(t, n)
	}
	require.NoError(t, session.Close(t.Context()))
}

func TestOperator(t *testing.T) {
	b := newBroker(t)
	worker := b.bus("orders")
	ok := make(chan bool, 1)
	handled := make(chan string, 10)
	_, err := bus.Subscribe(t.Context(), worker, func(_ context.Context, e OrderMade) error {
		select {
		case <-ok:
			handled <- e.ID
			return nil
		default:
			return bus.Permanent(fmt.Errorf("order %s is unknown", e.ID))
		}
	}, bus.WithConcurrency(1))
	require.NoError(t, err)
	publisher := b.bus("publisher")
	for _, id := range []string{"1", "2"} {
		require.NoError(t, bus.Publish(t.Context(), publisher, OrderMade{ID: id, Note: canary}))
	}
	operator := b.bus("operator")
	var page bus.DeadLetterPage
	require.Eventually(t, func() bool {
		page, err = operator.DeadLetters().List(t.Context(), bus.DeadLetterQuery{})
		require.NoError(t, err)
		return len(page.Letters) == 2
	}, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, operator.DeadLetters().Discard(t.Context(), page.Letters[1].ID))
	ok <- true
	_, err = operator.DeadLetters().Redrive(t.Context(), page.Letters[0].ID)
	require.NoError(t, err)
	require.Equal(t, "1", next(t, handled))
	n, err := operator.DeadLetters().Count(t.Context(), bus.DeadLetterFilter{})
	require.NoError(t, err)
	require.Zero(t, n)

	r := b.raw("operator")
	r.cannotPublish(forbidden...)
	r.cannotPublish("jitney.evt._.order.made", "jitney.evt.job-1.order.made", "jitney.cmd.job-1.order.pay", "jitney.sched.x",
		"$KV.JITNEY_STATE.owner.order.pay", "$KV.JITNEY_STATE.lease.x", "$JS.API.STREAM.MSG.GET.JITNEY_EVT",
		"$JS.API.CONSUMER.MSG.NEXT.JITNEY_EVT.orders=order=made", "$JS.ACK.JITNEY_EVT.orders=order=made.1.1.1.1.1")
	r.cannotSubscribe(spying...)
}

// Who makes streams and consumers can have any event delivered to a consumer, but
// changes and deletes nothing.
func TestProvision(t *testing.T) {
	b := newBroker(t)
	r := b.raw("provision")
	r.cannotPublish("jitney.evt._.order.made", "jitney.cmd._.order.pay", "$KV.JITNEY_STATE.owner.order.pay",
		"$JS.API.STREAM.DELETE.JITNEY_EVT", "$JS.API.STREAM.PURGE.JITNEY_EVT", "$JS.API.STREAM.MSG.GET.JITNEY_EVT",
		"$JS.API.STREAM.MSG.DELETE.JITNEY_EVT", "$JS.API.CONSUMER.DELETE.JITNEY_EVT.orders=order=made", "$JS.API.DIRECT.GET.JITNEY_DLQ")
	r.cannotSubscribe(spying...)
}

// The probes are worth nothing if they would also find what is allowed denied.
func TestProbesFindWhatIsAllowed(t *testing.T) {
	b := newBroker(t)
	r := b.raw("publisher")
	js, err := jetstream.New(r.nc)
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "jitney.evt._.order.made", []byte("{}"))
	require.NoError(t, err)
	require.NoError(t, r.nc.Flush())
	require.Empty(t, r.errs)
}
