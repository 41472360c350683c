package hostile

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/internal/natstest"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport/nats"
)

func TestMain(m *testing.M) { natstest.Main(m) }

// patience is for what has to come; nothing is asserted of how soon it does.
const patience = time.Minute

// Order is the event that everything is thrown at. One whose ID begins with "fail"
// fails.
type Order struct {
	ID   string
	N    int32
	Tags []string
	Any  any
}

func (Order) MessageName() string { return "shop.order" }

// Charge is the command. Its handler returns the order.
type Charge struct {
	bus.Command[string]
	Order string
	N     int32
}

func (Charge) MessageName() string { return "shop.charge" }

// run is one run of a handler.
type run struct {
	what any
	meta bus.Meta
}

// lab is a server, and a service that lives on it while the tests do their worst.
type lab struct {
	*testing.T
	url string
	nc  *natsgo.Conn // of the attacker
	bus *bus.Bus
	log output

	mu      sync.Mutex
	ran     []run
	again   chan struct{} // closed and replaced with each run
	witness int
}

func newLab(t *testing.T) *lab {
	return newLabWith(t, resilience.Retry{MaxRetries: 1, Initial: time.Millisecond, Max: time.Millisecond, Jitter: resilience.NoJitter})
}

// newLabWith is newLab with a policy for events that fail.
func newLabWith(t *testing.T, retry resilience.Retry) *lab {
	s := natstest.Server(t)
	l := &lab{T: t, url: s.URL(), nc: s.Connect(), again: make(chan struct{})}
	l.bus = l.open("shop")
	_, err := bus.Subscribe(t.Context(), l.bus, func(ctx context.Context, o Order) error {
		l.note(ctx, o)
		if strings.HasPrefix(o.ID, "fail") {
			return errors.New("it fails")
		}
		return nil
	}, bus.WithName("count"), bus.WithRetry(retry))
	require.NoError(t, err)
	require.NoError(t, bus.Handle(t.Context(), l.bus, func(ctx context.Context, c Charge) (string, error) {
		l.note(ctx, c)
		if strings.HasPrefix(c.Order, "fail") {
			return "", errors.New("it fails")
		}
		return c.Order, nil
	}))
	return l
}

// open starts one more process of a service.
func (l *lab) open(service string) *bus.Bus {
	l.Helper()
	log := slog.New(&l.log)
	tr, err := nats.Open(l.Context(), nats.Config{URL: l.url, Logger: log})
	require.NoError(l, err)
	b, err := bus.New(tr, bus.Config{Service: service, Logger: log, ExecuteTimeout: patience, PublishTimeout: patience})
	require.NoError(l, err)
	l.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(l, b.Close(ctx))
		printable(l, "description", b.Describe().String())
		l.log.check(l)
	})
	return b
}

func (l *lab) note(ctx context.Context, what any) {
	m, _ := bus.MetaFrom(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ran = append(l.ran, run{what, m})
	close(l.again)
	l.again = make(chan struct{})
}

// runs returns what handlers were run with that match.
func (l *lab) runs(match func(run) bool) (found []run, again <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.ran {
		if match(r) {
			found = append(found, r)
		}
	}
	return found, l.again
}

// await waits until n runs match, and fails if more do.
func (l *lab) await(n int, match func(run) bool) []run {
	l.Helper()
	timeout := time.After(patience)
	for {
		found, again := l.runs(match)
		if len(found) >= n {
			require.Len(l, found, n)
			return found
		}
		select {
		case <-again:
		case <-timeout:
			require.Failf(l, "handler not run", "%d of %d runs; the log:\n%s", len(found), n, l.log.String())
		}
	}
}

func orderIs(id string) func(run) bool {
	return func(r run) bool { o, ok := r.what.(Order); return ok && o.ID == id }
}

func chargeIs(order string) func(run) bool {
	return func(r run) bool { c, ok := r.what.(Charge); return ok && c.Order == order }
}

func whatever(run) bool { return true }

// goesOn shows that the service lives: an event and a command of a well-behaved
// process are handled.
func (l *lab) goesOn() {
	l.Helper()
	l.witness++
	id := fmt.Sprintf("witness-%d", l.witness)
	require.NoError(l, bus.Publish(l.Context(), l.bus, Order{ID: id}))
	l.await(1, orderIs(id))
	l.ask(id)
}

// ask executes a well-formed command over the wire, as another process would.
func (l *lab) ask(order string) {
	l.Helper()
	reply, err := l.nc.Request("jitney.cmd._.shop.charge", fmt.Appendf(nil, `{"Order":%q}`, order), patience)
	require.NoError(l, err)
	require.Equal(l, fmt.Sprintf("%q", order), string(reply.Data))
	l.await(1, chargeIs(order))
}

// letters waits until there are n dead letters, and returns them, the oldest first.
func (l *lab) letters(n int) []bus.DeadLetter {
	l.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		page, err := l.bus.DeadLetters().List(l.Context(), bus.DeadLetterQuery{Limit: 1000})
		require.NoError(l, err, "log:\n%s", l.log.String())
		if len(page.Letters) >= n {
			require.Len(l, page.Letters, n)
			for _, d := range page.Letters {
				printable(l, "dead letter", d.String())
			}
			return page.Letters
		}
		if time.Now().After(deadline) {
			require.Failf(l, "dead letter missing", "%d of %d; the log:\n%s", len(page.Letters), n, l.log.String())
		}
	}
}

// stored is how many messages a stream has.
func (l *lab) stored(stream string) uint64 {
	l.Helper()
	js, err := l.nc.JetStream()
	require.NoError(l, err)
	info, err := js.StreamInfo(stream)
	require.NoError(l, err)
	return info.State.Msgs
}

// keep stores a message, as a stream acknowledges.
func (l *lab) keep(m *natsgo.Msg) {
	l.Helper()
	js, err := l.nc.JetStream()
	require.NoError(l, err)
	_, err = js.PublishMsg(m)
	require.NoError(l, err)
}

// raw writes bytes of the protocol on a connection of their own, and returns what
// the server says to that, "" if it took them.
func (l *lab) raw(frame string) string {
	l.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(l.url, "nats://"))
	require.NoError(l, err)
	defer c.Close()
	require.NoError(l, c.SetDeadline(time.Now().Add(patience)))
	go func() { // the server may close before it has read it all
		_, _ = c.Write([]byte("CONNECT {\"verbose\":false,\"headers\":true}\r\n" + frame + "PING\r\n"))
	}()
	for lines := bufio.NewScanner(c); lines.Scan(); {
		switch line := lines.Text(); {
		case strings.HasPrefix(line, "-ERR"):
			return line
		case line == "PONG":
			return ""
		}
	}
	return "closed"
}

// hpub is a message with whatever is called a header.
func hpub(subject, header, body string) string {
	return fmt.Sprintf("HPUB %s %d %d\r\n%s%s\r\n", subject, len(header), len(header)+len(body), header, body)
}

// head is a header block of lines.
func head(lines ...string) string {
	return "NATS/1.0\r\n" + strings.Join(append(lines, "", ""), "\r\n")
}

// printable fails if text could do anything to a terminal.
func printable(t require.TestingT, what, text string) {
	for line := range strings.SplitSeq(text, "\n") {
		if i := strings.IndexFunc(line, unicode.IsControl); i >= 0 {
			require.Failf(t, "control character", "%s: %q", what, line)
		}
	}
}

// output keeps what is logged. It is a handler of its own: those of log/slog escape
// attributes, and what is to be seen is the message.
type output struct {
	mu   sync.Mutex
	text strings.Builder
	bad  []string
}

func (o *output) Enabled(context.Context, slog.Level) bool { return true }
func (o *output) WithGroup(string) slog.Handler            { return o }
func (o *output) WithAttrs([]slog.Attr) slog.Handler       { return o }

func (o *output) Handle(ctx context.Context, r slog.Record) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if strings.ContainsFunc(r.Message, unicode.IsControl) {
		o.bad = append(o.bad, r.Message)
	}
	return slog.NewTextHandler(&o.text, &slog.HandlerOptions{Level: slog.LevelDebug}).Handle(ctx, r)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (o *output) check(t require.TestingT) {
	printable(t, "log", o.String())
	require.Empty(t, o.bad)
}
