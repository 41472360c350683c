package command_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/middleware"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// charge is a command that must not run twice.
type charge struct {
	bus.Command[receiptNo]
	Order string
	Cents int
}

func (charge) MessageName() string { return "card.charge" }

type receiptNo struct{ No int }

// charger handles charge: it counts its runs and does with each what do says.
type charger struct {
	*world.Record[string] // the keys of the runs
	mu                    sync.Mutex
	do                    func(ctx context.Context, run int) error
}

func newCharger() *charger { return &charger{Record: world.NewRecord[string]()} }

func (c *charger) then(do func(ctx context.Context, run int) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.do = do
}

func (c *charger) handle(ctx context.Context, _ charge) (receiptNo, error) {
	m, _ := bus.MetaFrom(ctx)
	c.Add(m.IdempotencyKey)
	run := len(c.All())
	c.mu.Lock()
	do := c.do
	c.mu.Unlock()
	if do != nil {
		if err := do(ctx, run); err != nil {
			return receiptNo{}, err
		}
	}
	return receiptNo{run}, nil
}

// serve registers it on a bus.
func (c *charger) serve(w *world.World, s bus.Scope, opts ...bus.HandleOption) *charger {
	w.Helper()
	require.NoError(w, bus.Handle(w.Context(), s, c.handle, opts...))
	return c
}

// testWindow is for how long the handlers of idempotent keep a success.
const testWindow = 10 * time.Minute

// idempotent runs f with a caller in the handler's process, and with one in another.
func idempotent(t *testing.T, f func(w *world.World, server, caller *bus.Bus)) {
	for _, where := range []string{"same process", "another process"} {
		t.Run(where, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				server := w.Bus(bus.Config{IdempotencyWindow: testWindow})
				caller := server
				if where == "another process" {
					caller = w.Bus(bus.Config{Service: "caller"})
				}
				f(w, server, caller)
			})
		})
	}
}

func TestIdempotencyKeyReturnsTheFirstResult(t *testing.T) {
	idempotent(t, func(w *world.World, server, caller *bus.Bus) {
		runs := newCharger().serve(w, server)
		for i := range 3 {
			var r bus.Receipt
			no, err := bus.Execute(w.Context(), caller, charge{Order: "a"}, bus.WithIdempotencyKey("order a"), bus.WithReceipt(&r))
			require.NoError(w, err)
			require.Equal(w, receiptNo{1}, no)
			require.Equal(w, i > 0, r.Repeated)
			require.Equal(w, "svc", r.Service)
			world.Settle(3 * time.Minute)
		}
		require.Equal(w, []string{"order a"}, runs.All())

		no, err := bus.Execute(w.Context(), caller, charge{Order: "a"}, bus.WithIdempotencyKey("order b"))
		require.NoError(w, err)
		require.Equal(w, receiptNo{2}, no, "another key")
		no, err = bus.Execute(w.Context(), caller, charge{Order: "a"})
		require.NoError(w, err)
		require.Equal(w, receiptNo{3}, no, "no key")

		world.Settle(2 * time.Minute) // the window has passed
		no, err = bus.Execute(w.Context(), caller, charge{Order: "a"}, bus.WithIdempotencyKey("order a"))
		require.NoError(w, err)
		require.Equal(w, receiptNo{4}, no)
	})
}

func TestIdempotencyKeyIsOneOfACommandAndASession(t *testing.T) {
	idempotent(t, func(w *world.World, server, caller *bus.Bus) {
		runs := newCharger().serve(w, server)
		require.NoError(w, bus.HandleNone(w.Context(), server, func(context.Context, world.ResetAll) error { runs.Add("reset"); return nil }))
		key := bus.WithIdempotencyKey("k")
		for range 2 {
			no, err := bus.Execute(w.Context(), caller, charge{}, key)
			require.NoError(w, err)
			require.Equal(w, receiptNo{1}, no)
		}
		for range 2 {
			require.NoError(w, bus.Do(w.Context(), caller, world.ResetAll{}, key))
		}
		for range 2 { // of a session that has no handler for it
			no, err := bus.Execute(bus.ContextWithSession(w.Context(), "s/1"), caller, charge{}, key)
			require.NoError(w, err)
			require.Equal(w, receiptNo{3}, no)
		}
		s, err := server.Session(w.Context(), "s/2")
		require.NoError(w, err)
		own := newCharger().serve(w, s)
		for range 2 {
			no, err := bus.Execute(bus.ContextWithSession(w.Context(), "s/2"), caller, charge{}, key)
			require.NoError(w, err)
			require.Equal(w, receiptNo{1}, no)
		}
		require.Equal(w, []string{"k", "reset", "k"}, runs.All())
		require.Equal(w, []string{"k"}, own.All())
	})
}

func TestIdempotencyWindowIsADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := bus.New(memory.New(memory.Config{}), bus.Config{})
		require.NoError(t, err)
		defer b.Close(context.Background())
		runs := newCharger()
		require.NoError(t, bus.Handle(t.Context(), b, runs.handle))
		for _, no := range []int{1, 1, 2} {
			r, err := bus.Execute(t.Context(), b, charge{}, bus.WithIdempotencyKey("k"))
			require.NoError(t, err)
			require.Equal(t, receiptNo{no}, r)
			world.Settle(12*time.Hour + time.Second)
		}
	})
}

// A failure is told to its caller, and frees the key.
func TestIdempotencyKeyIsFreeAfterAFailure(t *testing.T) {
	for what, c := range map[string]struct {
		do   func(ctx context.Context, run int) error
		code bus.Code
	}{
		"error":  {func(context.Context, int) error { return world.ErrOops }, bus.CodeFailed},
		"panic":  {func(context.Context, int) error { panic("oops") }, bus.CodePanic},
		"goexit": {func(context.Context, int) error { runtime.Goexit(); return nil }, bus.CodePanic},
		"refused": {func(context.Context, int) error {
			return &bus.Error{Code: "quota", Message: "none left"}
		}, "quota"},
	} {
		t.Run(what, func(t *testing.T) {
			idempotent(t, func(w *world.World, server, caller *bus.Bus) {
				runs := newCharger().serve(w, server)
				runs.then(func(ctx context.Context, run int) error {
					if run < 3 {
						return c.do(ctx, run)
					}
					return nil
				})
				for range 2 {
					_, err := bus.Execute(w.Context(), caller, charge{}, bus.WithIdempotencyKey("k"))
					require.Equal(w, c.code, bus.CodeOf(err), "%v", err)
				}
				for range 2 {
					no, err := bus.Execute(w.Context(), caller, charge{}, bus.WithIdempotencyKey("k"))
					require.NoError(w, err)
					require.Equal(w, receiptNo{3}, no)
				}
			})
		})
	}
}

func TestIdempotencyKeyOfAnotherCommandConflicts(t *testing.T) {
	idempotent(t, func(w *world.World, server, caller *bus.Bus) {
		runs := newCharger().serve(w, server)
		release := make(chan struct{})
		runs.then(func(_ context.Context, run int) error {
			if run == 1 {
				<-release
			}
			return nil
		})
		first := world.NewRecord[error]()
		go func() {
			_, err := bus.Execute(w.Context(), caller, charge{Cents: 1}, bus.WithIdempotencyKey("k"))
			first.Add(err)
		}()
		runs.Wait(w, 1)
		conflict := func(when string) {
			_, err := bus.Execute(w.Context(), caller, charge{Cents: 2}, bus.WithIdempotencyKey("k"))
			require.ErrorIs(w, err, bus.ErrIdempotencyConflict, when)
			require.Equal(w, bus.CodeConflict, bus.CodeOf(err))
			var e *bus.Error
			require.ErrorAs(w, err, &e)
			require.Zero(w, e.Attempts)
			require.Equal(w, "card.charge", e.Name)
			require.Equal(w, "execute", e.Op)
		}
		conflict("while it runs")
		close(release)
		require.NoError(w, first.Wait(w, 1)[0])
		conflict("after its success")
		world.Settle(testWindow + time.Second)
		no, err := bus.Execute(w.Context(), caller, charge{Cents: 2}, bus.WithIdempotencyKey("k"))
		require.NoError(w, err, "the window has passed")
		require.Equal(w, receiptNo{2}, no)
	})
}

// Whoever asks while it runs waits for that run, without a slot of the handler, and
// has its result or its error.
func TestIdempotentCallsAttachToTheRun(t *testing.T) {
	for what, failure := range map[string]error{"success": nil, "failure": world.ErrOops} {
		t.Run(what, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				servers := []*bus.Bus{w.Bus(bus.Config{}), w.Bus(bus.Config{})}
				caller := w.Bus(bus.Config{Service: "caller"})
				release := make(chan struct{})
				runs := newCharger()
				runs.then(func(context.Context, int) error { <-release; return failure })
				for _, s := range servers {
					runs.serve(w, s, bus.WithConcurrency(3))
				}
				results := world.NewRecord[string]()
				execute := func(b *bus.Bus, key string) {
					no, err := bus.Execute(w.Context(), b, charge{}, bus.WithIdempotencyKey(key))
					results.Add(fmt.Sprint(no.No, " ", bus.CodeOf(err)))
				}
				go execute(caller, "k")
				runs.Wait(w, 1)
				for _, b := range []*bus.Bus{servers[0], servers[1], caller} {
					for range 7 {
						go execute(b, "k")
					}
				}
				world.Settle(10 * time.Second) // longer than Execute waits for a reply
				require.Len(w, runs.All(), 1)
				require.Empty(w, results.All())
				began := time.Now()
				free := world.NewRecord[error]()
				go func() {
					_, err := bus.Execute(w.Context(), caller, charge{}, bus.WithTimeout(time.Second))
					free.Add(err)
				}()
				runs.Wait(w, 2) // there are slots
				close(release)
				all := results.Wait(w, 22)
				require.Less(w, time.Since(began), 2*time.Second)
				for _, r := range all {
					require.Equal(w, map[bool]string{true: "1 ", false: "0 failed"}[failure == nil], r)
				}
				require.Len(w, runs.All(), 2)
			})
		})
	}
}

// One who waits for a run of another is not kept for longer than he wants.
func TestIdempotentCallWaitsWithinItsDeadline(t *testing.T) {
	idempotent(t, func(w *world.World, server, caller *bus.Bus) {
		release := make(chan struct{})
		defer close(release)
		runs := newCharger().serve(w, server)
		runs.then(func(context.Context, int) error { <-release; return nil })
		go func() { _, _ = bus.Execute(w.Context(), caller, charge{}, bus.WithIdempotencyKey("k")) }()
		runs.Wait(w, 1)
		began := time.Now()
		_, err := bus.Execute(w.Context(), caller, charge{}, bus.WithIdempotencyKey("k"), bus.WithTimeout(3*time.Second))
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err), "%v", err)
		require.Equal(w, 3*time.Second, time.Since(began))
		ctx, cancel := context.WithCancel(w.Context())
		time.AfterFunc(time.Second, cancel)
		_, err = bus.Execute(ctx, caller, charge{}, bus.WithIdempotencyKey("k"))
		require.Equal(w, bus.CodeCancelled, bus.CodeOf(err), "%v", err)
		require.Equal(w, 4*time.Second, time.Since(began))
	})
}

// With a store that cannot be reached nothing runs, and Execute asks until it can.
func TestIdempotentCommandNeedsTheStore(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server, tr := w.Process("svc")
		caller := w.Bus(bus.Config{Service: "caller"})
		runs := newCharger().serve(w, server)
		for _, b := range []*bus.Bus{server, caller} {
			for _, op := range []string{"create", "get"} {
				if op == "get" {
					runs.then(func(context.Context, int) error { return world.ErrOops })
					_, err := bus.Execute(w.Context(), b, charge{}, bus.WithIdempotencyKey("get"))
					require.Equal(w, bus.CodeFailed, bus.CodeOf(err))
					runs.then(nil)
				}
				before := len(runs.All())
				tr.Set(func(_ context.Context, o, what string) error {
					if o == op && strings.HasPrefix(what, "idem.") {
						return fmt.Errorf("driver: %w", transport.ErrUnavailable)
					}
					return nil
				})
				began := time.Now()
				_, err := bus.Execute(w.Context(), b, charge{}, bus.WithIdempotencyKey(op), bus.WithTimeout(time.Minute))
				require.Equal(w, bus.CodeUnavailable, bus.CodeOf(err), "%v", err)
				var e *bus.Error
				require.ErrorAs(w, err, &e)
				require.Zero(w, e.Attempts)
				require.Len(w, runs.All(), before)
				if b == caller {
					require.Equal(w, time.Minute, time.Since(began))
				}
				tr.Set(nil)
			}
		}
		tr.Set(world.Times(5, world.FailingStore("idem.", transport.ErrUnavailable)))
		_, err := bus.Execute(w.Context(), caller, charge{}, bus.WithIdempotencyKey("later"))
		require.NoError(w, err)
	})
}

// Nor does anything run with a store that is full.
func TestIdempotentCommandNeedsRoomInTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := bus.New(memory.New(memory.Config{MaxStore: 1_200}), bus.Config{IdempotencyWindow: time.Minute})
		require.NoError(t, err)
		defer b.Close(context.Background())
		runs := newCharger()
		require.NoError(t, bus.Handle(t.Context(), b, runs.handle))
		for _, code := range []bus.Code{"", bus.CodeUnavailable} {
			_, err := bus.Execute(t.Context(), b, charge{}, bus.WithIdempotencyKey("k"+string(code)))
			require.Equal(t, code, bus.CodeOf(err), "%v", err)
		}
		_, err = bus.Execute(t.Context(), b, charge{}, bus.WithIdempotencyKey("k"))
		require.NoError(t, err)
		require.Len(t, runs.All(), 1)
		world.Settle(2 * time.Minute)
		_, err = bus.Execute(t.Context(), b, charge{}, bus.WithIdempotencyKey("k2"))
		require.NoError(t, err)
	})
}

// A reply that is lost is asked for again, and the command does not run again.
func TestIdempotentCommandWhoseReplyIsLost(t *testing.T) {
	for what, lose := range map[string]func(ctx context.Context) error{
		"the driver says so": func(context.Context) error { return transport.ErrUnknown },
		"nobody says so":     func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(what, func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				runs := newCharger().serve(w, w.Bus(bus.Config{}))
				caller, tr := w.Process("caller")
				losing := func() {
					var lost atomic.Int64
					tr.SetAfter(func(ctx context.Context, op, _ string) error {
						if op == "request" && lost.Add(1) <= 2 {
							return lose(ctx)
						}
						return nil
					})
				}
				losing()
				_, err := bus.Execute(w.Context(), caller, charge{}, bus.WithTimeout(time.Minute))
				require.Contains(w, []bus.Code{bus.CodeUnknown, bus.CodeTimeout}, bus.CodeOf(err), "without a key it is not sent again")
				for i, opt := range []bus.ExecuteOption{bus.WithIdempotencyKey("k"), bus.WithIdempotency()} {
					losing()
					var r bus.Receipt
					began := time.Now()
					no, err := bus.Execute(w.Context(), caller, charge{}, opt, bus.WithReceipt(&r))
					require.NoError(w, err)
					require.Equal(w, receiptNo{i + 2}, no)
					require.True(w, r.Repeated)
					require.Less(w, time.Since(began), 20*time.Second)
				}
				require.Len(w, runs.All(), 3)
			})
		})
	}
}

// A process that is stopped takes requests and answers none: the default timeout has
// room for seven of them.
func TestIdempotentCommandIsAskedForOftenEnough(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		runs := newCharger().serve(w, w.Bus(bus.Config{}))
		caller, tr := w.Process("caller")
		var asked atomic.Int64
		tr.SetAfter(func(ctx context.Context, op, _ string) error {
			if op == "request" && asked.Add(1) <= 7 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		_, err := bus.Execute(w.Context(), caller, charge{}, bus.WithIdempotencyKey("k"))
		require.NoError(w, err)
		require.EqualValues(w, 8, asked.Load())
		require.Len(w, runs.All(), 1)
	})
}

// A failure that its caller has been told, or that was lost on the way, does not run
// the command again for what else that Execute has asked.
func TestIdempotentFailureIsNotRunAgainByItsOwnCall(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		runs := newCharger().serve(w, w.Bus(bus.Config{}))
		runs.then(func(context.Context, int) error { world.Settle(7 * time.Second); return world.ErrOops })
		caller, tr := w.Process("caller")
		tr.SetAfter(world.Times(1, world.Failing("request", transport.ErrUnknown)))
		_, err := bus.Execute(w.Context(), caller, charge{}, bus.WithIdempotencyKey("k"), bus.WithTimeout(5*time.Minute))
		require.Equal(w, bus.CodeFailed, bus.CodeOf(err), "%v", err)
		require.ErrorContains(w, err, world.ErrOops.Error())
		world.Settle(time.Minute)
		require.Len(w, runs.All(), 1)
		_, err = bus.Execute(w.Context(), caller, charge{}, bus.WithIdempotencyKey("k"))
		require.Equal(w, bus.CodeFailed, bus.CodeOf(err))
		require.Len(w, runs.All(), 2, "another Execute does")
	})
}

// A failure that is about to expire is not replaced: a server that removes it then may
// remove the claim that has taken its place, and the command would run beside itself.
func TestIdempotentClaimOutlivesAFailure(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b, tr := w.Process("svc")
		runs := newCharger().serve(w, b)
		runs.then(func(context.Context, int) error { return world.ErrOops })
		charging := func() {
			w.Helper()
			_, err := bus.Execute(w.Context(), b, charge{}, bus.WithIdempotencyKey("k"))
			require.ErrorContains(w, err, world.ErrOops.Error())
		}
		charging()
		world.Settle(58 * time.Second)
		before := tr.Count("update")
		charging()
		require.Equal(w, before+2, tr.Count("update"), "a failure that stays is replaced: by the claim, and that by what came of it")
		world.Settle(59*time.Second + 500*time.Millisecond)
		before, began := tr.Count("update"), time.Now()
		charging()
		require.Equal(w, before+1, tr.Count("update"), "the claim is created")
		require.Less(w, time.Since(began), 2*time.Second)
		require.Len(w, runs.All(), 3)
	})
}

// Nor does a success that comes too late replace another run's failure then: it is
// written once that has gone, and kept.
func TestIdempotentSuccessOutlivesAFailure(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		first, tr := w.Process("svc")
		failed := make(chan struct{})
		late := newCharger().serve(w, first)
		late.then(func(context.Context, int) error {
			<-failed
			world.Settle(59*time.Second + 500*time.Millisecond)
			return nil
		})
		caller := w.Bus(bus.Config{Service: "caller"})
		execute := func() (receiptNo, error) {
			return bus.Execute(w.Context(), caller, charge{}, bus.WithIdempotencyKey("k"), bus.WithTimeout(5*time.Minute))
		}
		go func() { _, _ = execute() }()
		late.Wait(w, 1)
		tr.Set(world.FailingStore("idem.", transport.ErrUnavailable))
		world.Settle(20 * time.Second) // its claim has ended
		second := newCharger()
		second.then(func(context.Context, int) error { return world.ErrOops })
		second.serve(w, w.Bus(bus.Config{}))
		_, err := execute()
		require.ErrorContains(w, err, world.ErrOops.Error())
		writes := world.NewRecord[string]()
		tr.Set(func(_ context.Context, op, what string) error {
			if strings.HasPrefix(what, "idem.") && op != "get" {
				writes.Add(op)
			}
			return nil
		})
		close(failed)
		world.Settle(62 * time.Second)
		all := writes.All()
		require.Equal(w, "create", all[len(all)-1], "%v: the failure was there no more", all)
		no, err := execute()
		require.NoError(w, err)
		require.Equal(w, receiptNo{1}, no)
		require.Len(w, late.All(), 1)
		require.Len(w, second.All(), 1)
	})
}

// When the process that runs it dies, another takes over once its claim has ended.
func TestIdempotentCommandSurvivesItsProcess(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		first, tr := w.Process("svc")
		died := newCharger().serve(w, first)
		died.then(func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() })
		caller := w.Bus(bus.Config{Service: "caller"})
		result := world.NewRecord[string]()
		go func() {
			no, err := bus.Execute(w.Context(), caller, charge{}, bus.WithIdempotencyKey("k"))
			result.Add(fmt.Sprint(no, err))
		}()
		died.Wait(w, 1)
		world.Settle(4 * time.Second) // it has been renewed once
		tr.Kill()
		killed := time.Now()
		other := newCharger().serve(w, w.Bus(bus.Config{}))
		require.Equal(w, "{1} <nil>", result.Wait(w, 1)[0])
		require.Greater(w, time.Since(killed), 10*time.Second, "the claim holds")
		require.Less(w, time.Since(killed), 16*time.Second)
		require.Len(w, died.All(), 1)
		require.Len(w, other.All(), 1)
	})
}

// A run that cannot renew its claim is cancelled before another begins, and does not
// overwrite what that comes to.
func TestIdempotentRunThatLosesItsClaim(t *testing.T) {
	for _, ignores := range []bool{false, true} {
		t.Run(fmt.Sprintf("ignores its context %v", ignores), func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) {
				first, tr := w.Process("svc")
				causes := world.NewRecord[error]()
				times := world.NewRecord[time.Time]()
				slow := newCharger().serve(w, first)
				slow.then(func(ctx context.Context, _ int) error {
					<-ctx.Done()
					times.Add(time.Now())
					causes.Add(context.Cause(ctx))
					if ignores {
						world.Settle(10 * time.Second)
						return nil // a success that comes too late
					}
					return ctx.Err()
				})
				caller := w.Bus(bus.Config{Service: "caller"})
				results := world.NewRecord[string]()
				execute := func() {
					no, err := bus.Execute(w.Context(), caller, charge{}, bus.WithIdempotencyKey("k"), bus.WithTimeout(time.Minute))
					results.Add(fmt.Sprint(no, err))
				}
				go execute()
				slow.Wait(w, 1)
				tr.Set(func(_ context.Context, op, what string) error {
					if (op == "update" || op == "create") && strings.HasPrefix(what, "idem.") {
						return transport.ErrUnavailable
					}
					return nil
				})
				second := newCharger()
				second.then(func(context.Context, int) error { times.Add(time.Now()); world.Settle(5 * time.Second); return nil })
				second.Add("so that results differ")
				second.serve(w, w.Bus(bus.Config{}))
				go execute()
				require.ErrorIs(w, causes.Wait(w, 1)[0], bus.ErrLeaseLost)
				second.Wait(w, 2)
				tr.Set(nil)
				require.True(w, times.All()[1].After(times.All()[0]))
				require.Equal(w, []string{"{2} <nil>", "{2} <nil>"}, results.Wait(w, 2))
				world.Settle(time.Minute)
				go execute()
				require.Equal(w, "{2} <nil>", results.Wait(w, 3)[2])
				require.Len(w, slow.All(), 1)
				require.Len(w, second.All(), 2)
			})
		})
	}
}

// A success that cannot be recorded is not told: the claim ends, and it runs again.
func TestIdempotentSuccessThatIsNotRecorded(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		server, tr := w.Process("svc")
		runs := newCharger().serve(w, server)
		caller := w.Bus(bus.Config{Service: "caller"})
		broken := func(_ context.Context, op, what string) error {
			if op == "update" && strings.HasPrefix(what, "idem.") {
				return transport.ErrUnavailable
			}
			return nil
		}
		tr.Set(broken)
		_, err := bus.Execute(w.Context(), caller, charge{}, bus.WithIdempotencyKey("k"), bus.WithTimeout(3*time.Second))
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err), "the outcome is unknown: %v", err)
		tr.Set(nil)
		no, err := bus.Execute(w.Context(), caller, charge{}, bus.WithIdempotencyKey("k"))
		require.NoError(w, err)
		require.Equal(w, receiptNo{2}, no, "the window that is documented")

		// One whose answer is lost was recorded.
		tr.SetAfter(world.Times(1, broken))
		no, err = bus.Execute(w.Context(), caller, charge{}, bus.WithIdempotencyKey("lost"))
		require.NoError(w, err)
		require.Equal(w, receiptNo{3}, no)
		require.Len(w, runs.All(), 3)
	})
}

// bulk is a command with a large result, or one that cannot be encoded.
type bulk struct {
	bus.Command[any]
	Size int
}

func (bulk) MessageName() string { return "bulk" }

func TestIdempotentResultThatCannotBeKept(t *testing.T) {
	idempotent(t, func(w *world.World, server, caller *bus.Bus) {
		runs := world.NewRecord[int]()
		require.NoError(w, bus.Handle(w.Context(), server, func(_ context.Context, c bulk) (any, error) {
			runs.Add(c.Size)
			if c.Size == 0 {
				return func() {}, nil
			}
			return strings.Repeat("x", c.Size), nil
		}))
		v, err := bus.Execute(w.Context(), caller, bulk{Size: 1 << 17}, bus.WithIdempotencyKey("large"))
		require.NoError(w, err)
		require.Len(w, v, 1<<17)
		_, err = bus.Execute(w.Context(), caller, bulk{}, bus.WithIdempotencyKey("func"))
		if !w.InProcess {
			require.Equal(w, bus.CodeFailed, bus.CodeOf(err))
		} else {
			require.NoError(w, err)
		}
		for key, size := range map[string]int{"large": 1 << 17, "func": 0} {
			_, err := bus.Execute(w.Context(), caller, bulk{Size: size}, bus.WithIdempotencyKey(key))
			require.ErrorIs(w, err, bus.ErrResultNotKept)
			require.Equal(w, bus.CodeFailed, bus.CodeOf(err))
		}
		for range 2 { // one that fits
			v, err := bus.Execute(w.Context(), caller, bulk{Size: 1000}, bus.WithIdempotencyKey("small"))
			require.NoError(w, err)
			require.Len(w, v, 1000)
		}
		require.Len(w, runs.All(), 3)
	})
}

// A middleware that refuses a command frees the key: nothing ran.
func TestIdempotentCommandThatIsRefused(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		refuse := true
		limit := func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				if m.IdempotencyKey != "k" {
					return nil, errors.New("no key")
				}
				if refuse {
					refuse = false
					return nil, &bus.Error{Code: bus.CodeBusy, Message: "not now"}
				}
				return next(ctx, m)
			}
		}
		runs := newCharger().serve(w, w.Bus(bus.Config{}), bus.WithMiddleware(limit))
		no, err := bus.Execute(w.Context(), w.Bus(bus.Config{Service: "caller"}), charge{}, bus.WithIdempotencyKey("k"))
		require.NoError(w, err, "Execute asks again")
		require.Equal(w, receiptNo{1}, no)
		require.Len(w, runs.All(), 1)
	})
}

// A handler that closes sends those away who wait there for another's run.
func TestCloseWhileCallsWaitForARun(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		running, closing := w.Bus(bus.Config{}), w.Bus(bus.Config{})
		release := make(chan struct{})
		runs := newCharger().serve(w, running)
		runs.then(func(context.Context, int) error { <-release; return nil })
		caller := w.Bus(bus.Config{Service: "caller"})
		results := world.NewRecord[string]()
		execute := func() {
			no, err := bus.Execute(w.Context(), caller, charge{}, bus.WithIdempotencyKey("k"), bus.WithTimeout(time.Minute))
			results.Add(fmt.Sprint(no, err))
		}
		go execute()
		runs.Wait(w, 1)
		runs.serve(w, closing)
		for range 20 {
			go execute()
		}
		world.Settle(time.Second)
		began := time.Now()
		require.NoError(w, closing.Close(w.Context()))
		require.Less(w, time.Since(began), time.Second)
		world.Settle(10 * time.Second)
		close(release)
		for _, r := range results.Wait(w, 21) {
			require.Equal(w, "{1} <nil>", r)
		}
		require.Len(w, runs.All(), 1)
	})
}

func TestIdempotencyKeyRules(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		b := w.Bus(bus.Config{})
		newCharger().serve(w, b)
		for _, key := range []string{"", strings.Repeat("x", 129), "a\nb", " a", "\xff"} {
			_, err := bus.Execute(w.Context(), b, charge{}, bus.WithIdempotencyKey(key))
			require.Equal(w, bus.CodeInvalid, bus.CodeOf(err), "%q", key)
		}
		for _, key := range []string{"order/17: ünï <&> %", strings.Repeat("x", 128)} {
			_, err := bus.Execute(w.Context(), b, charge{}, bus.WithIdempotencyKey(key))
			require.NoError(w, err)
		}
		for _, d := range []time.Duration{-1, time.Millisecond, 366 * 24 * time.Hour} {
			require.ErrorContains(w, bus.Config{IdempotencyWindow: d}.Validate(), "IdempotencyWindow")
		}
	})
}

// middleware.Retry sends a command again whose outcome is unknown, if it has a key.
func TestRetryMiddlewareOfAnIdempotentCommand(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		runs := newCharger().serve(w, w.Bus(bus.Config{}))
		tr := world.NewFaulty(w.Open())
		caller := w.BusOn(tr, bus.Config{Service: "caller", Sending: []bus.Middleware{
			middleware.Retry(resilience.Retry{}), middleware.Timeout(2 * time.Second),
		}})
		losing := func() {
			var lost atomic.Int64
			tr.SetAfter(func(ctx context.Context, op, _ string) error {
				if op == "request" && lost.Add(1) == 1 {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			})
		}
		losing()
		_, err := bus.Execute(w.Context(), caller, charge{})
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err), "%v", err)
		for i, opt := range []bus.ExecuteOption{bus.WithIdempotencyKey("k"), bus.WithIdempotency()} {
			losing()
			no, err := bus.Execute(w.Context(), caller, charge{}, opt)
			require.NoError(w, err)
			require.Equal(w, receiptNo{i + 2}, no)
		}
		require.Len(w, runs.All(), 3)
	})
}
