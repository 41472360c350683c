package deadletter_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// unsteady is a listener's part: what it saw, and whether it still fails.
type unsteady struct {
	seen *world.Record[bus.Meta]
	ok   atomic.Bool
}

func newUnsteady() *unsteady { return &unsteady{seen: world.NewRecord[bus.Meta]()} }

func (f *unsteady) handle(ctx context.Context, _ world.UserCreated) error {
	m, _ := bus.MetaFrom(ctx)
	f.seen.Add(m)
	if f.ok.Load() {
		return nil
	}
	return bus.Permanent(world.ErrOops)
}

// listen subscribes f on a bus of the service svc.
func listen(w *world.World, b *bus.Bus, f *unsteady, opts ...bus.SubscribeOption) {
	w.Helper()
	_, err := bus.Subscribe(w.Context(), b, f.handle, opts...)
	require.NoError(w, err)
}

// only returns the one dead letter that there is.
func only(w *world.World, dl *bus.DeadLetters) bus.DeadLetter {
	w.Helper()
	page, err := dl.List(w.Context(), bus.DeadLetterQuery{})
	require.NoError(w, err)
	require.Len(w, page.Letters, 1)
	return page.Letters[0]
}

func TestRedriveGoesToWhatFailed(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, ops := w.Bus(bus.Config{}), w.Bus(bus.Config{Service: "ops"})
		bad, good, other, private := newUnsteady(), newUnsteady(), newUnsteady(), newUnsteady()
		good.ok.Store(true)
		other.ok.Store(true)
		private.ok.Store(true)
		listen(w, b, bad, bus.WithName("bad"))
		listen(w, b, good, bus.WithName("good"))
		listen(w, b, other, bus.WithGroup("other"))
		listen(w, b, private, bus.WithPrivate())
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "ada"},
			bus.WithID("evt-1"), bus.WithKey("k"), bus.WithHeader("Tenant", "t1")))
		world.Settle(time.Minute)
		d := only(w, ops.DeadLetters())
		require.Zero(w, d.Generation)
		require.Empty(w, d.History)
		bad.ok.Store(true)

		dry, err := ops.DeadLetters().Redrive(w.Context(), d.ID, bus.WithDryRun())
		require.NoError(w, err)
		want := bus.RedriveResult{ID: d.ID, MessageID: "evt-1", Name: "user.created", Group: "svc", Handler: "bad", Generation: 1}
		require.Equal(w, want, func() bus.RedriveResult { r := dry; r.DryRun = false; return r }())
		require.True(w, dry.DryRun)
		world.Settle(time.Minute)
		require.Len(w, bad.seen.All(), 1)
		require.Equal(w, d.String(), only(w, ops.DeadLetters()).String(), "nothing was done")

		res, err := ops.DeadLetters().Redrive(w.Context(), d.ID)
		require.NoError(w, err)
		require.Equal(w, want, res)
		runs := bad.seen.Wait(w, 2)
		world.Settle(time.Hour)
		require.Len(w, bad.seen.All(), 2)
		for _, f := range []*unsteady{good, other, private} {
			require.Len(w, f.seen.All(), 1, "it is not theirs")
		}
		first, again := runs[0], runs[1]
		require.Equal(w, 1, again.Attempt, "fresh attempts")
		require.Equal(w, []int{0, 1}, []int{first.Generation, again.Generation})
		require.Equal(w, transport.Header{"Tenant": {"t1"}}, again.Headers())
		require.Equal(w, []string{"evt-1", "k", first.CorrelationID, first.CausationID, "svc", "bad"},
			[]string{again.ID, again.Key, again.CorrelationID, again.CausationID, again.Group, again.Handler})
		require.True(w, first.SentAt.Equal(again.SentAt))
		_, err = ops.DeadLetters().Get(w.Context(), d.ID)
		require.ErrorIs(w, err, bus.ErrNoDeadLetter)
		_, err = ops.DeadLetters().Redrive(w.Context(), d.ID)
		require.ErrorIs(w, err, bus.ErrNoDeadLetter)
	})
}

// A redriven event that fails again is a dead letter again, with all its attempts
// and its history.
func TestRedrivenEventFailsAgain(t *testing.T) {
	for name, fail := range map[string]func(attempt int) error{
		"waiting in the broker": func(int) error { return world.ErrOops },
		"as a copy":             func(int) error { return bus.RetryAfter(time.Minute, world.ErrOops) },
	} {
		t.Run(name, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				b := w.Bus(bus.Config{Retry: world.Steady})
				dl := b.DeadLetters()
				runs := world.NewRecord[string]()
				_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
					m, _ := bus.MetaFrom(ctx)
					runs.Add(fmt.Sprintf("%d/%d", m.Generation, m.Attempt))
					return fmt.Errorf("generation %d: %w", m.Generation, fail(m.Attempt))
				}, bus.WithName("mail"))
				require.NoError(w, err)
				sent := time.Now()
				require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "ada"}, bus.WithID("e")))
				ids := map[string]bool{}
				for generation := range 3 {
					world.Settle(10 * time.Minute)
					d := only(w, dl)
					require.Equal(w, generation, d.Generation)
					require.Len(w, d.History, generation)
					require.Equal(w, 4, d.Attempts, "those of this generation")
					require.Equal(w, "e", d.MessageID)
					require.Equal(w, "mail", d.Handler)
					require.Contains(w, d.Err, fmt.Sprintf("generation %d", generation))
					require.WithinDuration(w, sent, d.First, time.Second, "the first failure's")
					require.Empty(w, d.Header(), "nothing of the bus's")
					for i, f := range d.History {
						require.Contains(w, f.Err, fmt.Sprintf("generation %d", i))
						require.Equal(w, []any{bus.CodeFailed, 4, "svc", false}, []any{f.Code, f.Attempts, f.Service, f.Edited})
						require.False(w, f.Time.After(d.Last))
					}
					require.False(w, ids[d.ID], "each has an id of its own")
					ids[d.ID] = true
					res, err := dl.Redrive(w.Context(), d.ID)
					require.NoError(w, err)
					require.Equal(w, generation+1, res.Generation)
				}
				world.Settle(10 * time.Minute)
				require.Equal(w, strings.Fields("0/1 0/2 0/3 0/4 1/1 1/2 1/3 1/4 2/1 2/2 2/3 2/4 3/1 3/2 3/3 3/4"), runs.All())
				require.Contains(w, only(w, dl).String(), "generation=3")
			})
		})
	}
}

// The history keeps the first failure and the last ones, however many there are.
func TestHistoryIsBounded(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		long := strings.Repeat("<é\x01", 2000)
		_, err := bus.Subscribe(w.Context(), b, func(ctx context.Context, _ world.UserCreated) error {
			m, _ := bus.MetaFrom(ctx)
			return bus.Permanent(errors.New(fmt.Sprint(m.Generation, " ", long)))
		})
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		for range 30 {
			world.Settle(time.Second)
			_, err := b.DeadLetters().Redrive(w.Context(), only(w, b.DeadLetters()).ID)
			require.NoError(w, err)
		}
		world.Settle(time.Second)
		d := only(w, b.DeadLetters())
		require.Equal(w, 30, d.Generation)
		require.LessOrEqual(w, len(d.History), 8)
		require.GreaterOrEqual(w, len(d.History), 2)
		require.True(w, strings.HasPrefix(d.History[0].Err, "0 <é"))
		require.True(w, strings.HasPrefix(d.History[len(d.History)-1].Err, "29 <é"))
		require.LessOrEqual(w, len(d.History[0].Err), 256)
	})
}

// What could not be given to any handler goes to all of its group.
func TestRedriveOfAnEventThatWasNeverHandled(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		d := letter(w, "never")
		d.Handler, d.Code, d.Attempts = "", "invalid", 0
		add(w, tr, d)
		b := w.BusOn(tr, bus.Config{})
		one, two, other := newUnsteady(), newUnsteady(), newUnsteady()
		for _, f := range []*unsteady{one, two, other} {
			f.ok.Store(true)
		}
		listen(w, b, one, bus.WithName("one"))
		listen(w, b, two, bus.WithName("two"))
		listen(w, b, other, bus.WithGroup("other"))
		_, err := b.DeadLetters().Redrive(w.Context(), "never")
		require.NoError(w, err)
		world.Settle(time.Minute)
		require.Len(w, one.seen.All(), 1)
		require.Len(w, two.seen.All(), 1)
		require.Empty(w, other.seen.All())
	})
}

func TestRedriveAll(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		dl := b.DeadLetters()
		f := newUnsteady()
		listen(w, b, f, bus.WithConcurrency(1), bus.WithMiddleware(func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				if v, ok := m.Value.(world.UserCreated); ok && v.ID == "never" || m.ID == "never" {
					return nil, bus.Permanent(errors.New("never"))
				}
				return next(ctx, m)
			}
		}))
		for i := range 50 {
			require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, bus.WithID(fmt.Sprint(i))))
		}
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "never"}, bus.WithID("never")))
		f.seen.Wait(w, 50)
		world.Settle(time.Minute)
		f.ok.Store(true)
		f.seen.Reset()

		var each []string
		report, err := dl.RedriveAll(w.Context(), bus.DeadLetterFilter{Where: func(d bus.DeadLetter) bool { return len(d.MessageID) == 1 }},
			bus.WithEach(func(r bus.RedriveResult) { each = append(each, r.MessageID) }))
		require.NoError(w, err)
		require.Equal(w, []int{10, 0, 0}, []int{report.Redriven, report.Refused, report.Failed})
		require.Equal(w, numbered(0, 9), each)
		require.Len(w, report.Results, 10)
		world.Settle(time.Minute)
		require.Len(w, f.seen.All(), 10)

		dry, err := dl.RedriveAll(w.Context(), bus.DeadLetterFilter{}, bus.WithDryRun(), bus.WithRedriveRate(0.001))
		require.NoError(w, err)
		require.Equal(w, 41, dry.Redriven)
		require.True(w, dry.Results[0].DryRun)

		report, err = dl.RedriveAll(w.Context(), bus.DeadLetterFilter{}, bus.WithRedriveLimit(5))
		require.NoError(w, err)
		require.Equal(w, 5, report.Redriven)

		// What fails again meanwhile is not redriven again.
		report, err = dl.RedriveAll(w.Context(), bus.DeadLetterFilter{}, bus.WithEach(func(bus.RedriveResult) { world.Settle(time.Second) }))
		require.NoError(w, err)
		require.Equal(w, 36, report.Redriven)
		world.Settle(time.Minute)
		require.Equal(w, "never", only(w, dl).MessageID)
		require.Equal(w, 1, only(w, dl).Generation)
		require.Len(w, f.seen.All(), 50)
		seen := map[string]bool{}
		for _, m := range f.seen.All() {
			seen[m.ID] = true
		}
		require.Len(w, seen, 50)
	})
}

func TestRedriveAtARate(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		addNumbered(w, tr, 0, 10)
		began := time.Now()
		var at []time.Duration
		_, err := b.DeadLetters().RedriveAll(w.Context(), bus.DeadLetterFilter{}, bus.WithRedriveRate(0.5),
			bus.WithEach(func(bus.RedriveResult) { at = append(at, time.Since(began)) }))
		require.NoError(w, err)
		for i, d := range at {
			require.InDelta(w, float64(2*i), d.Seconds(), 0.5)
		}

		// It ends with its context, in the middle of a wait too.
		addNumbered(w, tr, 10, 20)
		ctx, cancel := context.WithTimeout(w.Context(), 5*time.Second)
		defer cancel()
		report, err := b.DeadLetters().RedriveAll(ctx, bus.DeadLetterFilter{}, bus.WithRedriveRate(0.5))
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err))
		require.ErrorIs(w, err, context.DeadlineExceeded)
		require.Equal(w, 3, report.Redriven)
		w.DeadLetters(tr, 7)
	})
}

func TestRedriveOptionsAreChecked(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		dl := w.Bus(bus.Config{}).DeadLetters()
		for _, opt := range []bus.RedriveOption{bus.WithRedriveRate(0), bus.WithRedriveRate(-1), bus.WithRedriveLimit(0), bus.WithEach(nil)} {
			_, err := dl.Redrive(w.Context(), "x", opt)
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
			_, err = dl.RedriveAll(w.Context(), bus.DeadLetterFilter{}, opt)
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		}
		_, err := dl.Redrive(w.Context(), "not an id")
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		_, err = dl.RedriveAll(w.Context(), bus.DeadLetterFilter{Kind: 9})
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
	})
}

func TestRedriveIsRefused(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		f := newUnsteady()
		f.ok.Store(true)
		listen(w, b, f)
		open, err := w.Bus(bus.Config{}).Session(w.Context(), "open")
		require.NoError(w, err)
		defer open.Close(w.Context())
		add := func(id string, change func(d *transport.DeadLetter)) {
			d := letter(w, id)
			change(d)
			add(w, tr, d)
		}
		in := func(session string) func(*transport.DeadLetter) {
			return func(d *transport.DeadLetter) { d.Message.Session, d.Message.To.Session = session, session }
		}
		add("private", func(d *transport.DeadLetter) { d.Group = "" })
		add("session-listener", func(d *transport.DeadLetter) { in("open")(d); d.Group = "" })
		add("ended", in("ended"))
		add("open", in("open"))
		add("malformed", func(d *transport.DeadLetter) { d.Message.Malformed = errors.New("two ids") })
		add("kind", func(d *transport.DeadLetter) { d.Kind = "saga" })
		add("name", func(d *transport.DeadLetter) { d.Message.To.Name = "No Name" })
		add("group", func(d *transport.DeadLetter) { d.Group = "g.*" })

		report, err := b.DeadLetters().RedriveAll(w.Context(), bus.DeadLetterFilter{})
		require.NoError(w, err)
		require.Equal(w, []int{1, 7, 0}, []int{report.Redriven, report.Refused, report.Failed})
		texts := map[string]string{"private": "private", "session-listener": "of a session", "ended": "has ended", "malformed": "two ids",
			"kind": "neither", "name": "addressed", "group": "addressed"}
		for _, r := range report.Results {
			if r.ID == "open" {
				require.NoError(w, r.Err)
				continue
			}
			require.ErrorIs(w, r.Err, bus.ErrNotRedrivable, r.ID)
			require.ErrorContains(w, r.Err, texts[r.ID])
			require.ErrorContains(w, r.Err, r.ID)
			require.Equal(w, r.ID == "ended", errors.Is(r.Err, bus.ErrSessionClosed), r.ID)
			want := bus.CodeInvalid
			if r.ID == "ended" {
				want = bus.CodeClosed
			}
			require.Equal(w, want, bus.CodeOf(r.Err), r.ID)
			_, err := b.DeadLetters().Redrive(w.Context(), r.ID, bus.WithDryRun())
			require.ErrorIs(w, err, bus.ErrNotRedrivable, "a dry run knows")
		}
		require.Equal(w, "open", string(f.seen.Wait(w, 1)[0].Session))
		w.DeadLetters(tr, 7)

		_, err = b.DeadLetters().Redrive(w.Context(), "ended", bus.WithForce())
		require.NoError(w, err)
		f.seen.Wait(w, 2)
		_, err = b.DeadLetters().Redrive(w.Context(), "private", bus.WithForce())
		require.ErrorIs(w, err, bus.ErrNotRedrivable, "there is nobody to force")
		w.DeadLetters(tr, 6)
	})
}

// The listener of a session that failed is refused too, as the bus records it.
func TestRedriveOfASessionsListener(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		s, err := b.Session(w.Context(), "job")
		require.NoError(w, err)
		_, err = bus.Subscribe(w.Context(), s, func(context.Context, world.UserCreated) error { return bus.Permanent(world.ErrOops) })
		require.NoError(w, err)
		require.NoError(w, bus.Publish(w.Context(), s, world.UserCreated{}))
		world.Settle(time.Minute)
		d := only(w, b.DeadLetters())
		require.Equal(w, "job", d.Session)
		_, err = b.DeadLetters().Redrive(w.Context(), d.ID)
		require.ErrorIs(w, err, bus.ErrNotRedrivable)
		require.NoError(w, s.Close(w.Context()))
	})
}

func TestHeadersOfABigEventAreRedriven(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		f := newUnsteady()
		listen(w, b, f)
		var opts []bus.PublishOption
		for i := range 8 {
			opts = append(opts, bus.WithHeader(fmt.Sprint("H", i), strings.Repeat("x", 4000)))
		}
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}, opts...))
		for range 5 {
			world.Settle(time.Second)
			_, err := b.DeadLetters().Redrive(w.Context(), only(w, b.DeadLetters()).ID)
			require.NoError(w, err)
		}
		require.Len(w, f.seen.Wait(w, 6)[5].Headers(), 8)
	})
}

// forged redrives on an event for everybody mean nothing.
func TestForgedRedriveHeaders(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		f := newUnsteady()
		listen(w, b, f)
		m := &transport.Message{To: transport.Address{Name: "user.created"}, ID: "e", Header: transport.Header{
			"Jitney-Generation": {"7"}, "Jitney-Redriven": {"x"}, "Jitney-History": {`[{"err":"x"}]`}, "Jitney-Edited": {"1"}}}
		fill(w, m, world.UserCreated{})
		require.NoError(w, tr.Publish(w.Context(), m))
		require.Zero(w, f.seen.Wait(w, 1)[0].Generation)
		world.Settle(time.Second)
		d := only(w, b.DeadLetters())
		require.Equal(w, []any{0, false, 0}, []any{d.Generation, d.Edited, len(d.History)})
	})
}

func TestRedriveConcurrently(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		const letters, redrivers = 40, 4
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		f := newUnsteady()
		f.ok.Store(true)
		listen(w, b, f)
		addNumbered(w, tr, 0, letters)
		var wg sync.WaitGroup
		var done atomic.Int64
		for range redrivers {
			dl := w.Bus(bus.Config{Service: "ops"}).DeadLetters()
			wg.Go(func() {
				report, err := dl.RedriveAll(w.Context(), bus.DeadLetterFilter{})
				if err != nil || report.Failed+report.Refused > 0 {
					w.Errorf("%v %+v", err, report)
				}
				done.Add(int64(report.Redriven))
			})
		}
		wg.Wait()
		require.GreaterOrEqual(w, done.Load(), int64(letters))
		world.Settle(time.Hour)
		require.Len(w, f.seen.All(), letters, "each once")
		w.DeadLetters(tr, 0)
	})
}

// A handler that is not retried at all, and dies with each event, ends as often.
func TestRedriveOfAnEventWithoutRetries(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{Retry: resilience.Retry{MaxRetries: resilience.NoRetries}})
		f := newUnsteady()
		listen(w, b, f)
		require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
		world.Settle(time.Second)
		_, err := b.DeadLetters().Redrive(w.Context(), only(w, b.DeadLetters()).ID)
		require.NoError(w, err)
		world.Settle(time.Second)
		require.Equal(w, 1, only(w, b.DeadLetters()).Generation)
	})
}
