package command_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

// leaseEnd is when a process that does not renew its lease has lost it: the
// pause of 10 s that it may take, the renewal that it was about to make, and a
// broker's whole seconds.
const leaseEnd = 16 * time.Second

func TestCommandOfADeadProcessIsFreeAfterItsLease(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		dead, tr := w.Process("accounts")
		require.NoError(w, bus.Handle(w.Context(), dead, world.Answering("dead")))
		world.Settle(time.Minute)
		other := w.Bus(bus.Config{Service: "billing"})
		require.ErrorIs(w, bus.Handle(w.Context(), other, world.Answering("other")), bus.ErrOwned, "a lease that is renewed holds")
		world.Settle(20 * time.Second)
		tr.Kill()
		died := time.Now()
		require.ErrorIs(w, bus.Handle(w.Context(), other, world.Answering("other")), bus.ErrOwned, "nobody knows yet")
		for {
			err := bus.Handle(w.Context(), other, world.Answering("other"))
			if err == nil {
				break
			}
			require.ErrorIs(w, err, bus.ErrOwned)
			world.Settle(100 * time.Millisecond)
		}
		require.Less(w, time.Since(died), leaseEnd)
		require.Greater(w, time.Since(died), 6*time.Second, "renewed 3 s before it died at the earliest")
		id, err := bus.Execute(w.Context(), other, world.CreateUser{Name: "a"})
		require.NoError(w, err)
		require.Equal(w, world.UserID("other"), id)
	})
}

func TestServiceOutlivesOneOfItsProcesses(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		dead, tr := w.Process("accounts")
		require.NoError(w, bus.Handle(w.Context(), dead, world.Answering("dead")))
		require.NoError(w, bus.Handle(w.Context(), w.Bus(bus.Config{Service: "accounts"}), world.Answering("alive")))
		tr.Kill()
		world.Settle(time.Minute)
		other := w.Bus(bus.Config{Service: "billing"})
		require.ErrorIs(w, bus.Handle(w.Context(), other, world.Answering("other")), bus.ErrOwned)
		id, err := bus.Execute(w.Context(), other, world.CreateUser{Name: "a"})
		require.NoError(w, err)
		require.Equal(w, world.UserID("alive"), id)
	})
}

func TestLeaseThatEndedIsMadeAgain(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		b, tr := w.Process("accounts")
		require.NoError(w, bus.Handle(w.Context(), b, world.Answering("accounts")))
		tr.Set(world.FailingStore("", transport.ErrUnavailable))
		world.Settle(time.Minute)
		tr.Set(nil)
		world.Settle(5 * time.Second)
		other := w.Bus(bus.Config{Service: "billing"})
		require.ErrorIs(w, bus.Handle(w.Context(), other, world.Answering("other")), bus.ErrOwned, "claimed again")
		id, err := bus.Execute(w.Context(), other, world.CreateUser{Name: "a"})
		require.NoError(w, err)
		require.Equal(w, world.UserID("accounts"), id)
		world.Settle(time.Minute)
		require.ErrorIs(w, bus.Handle(w.Context(), other, world.Answering("other")), bus.ErrOwned, "and renewed from then on")
	})
}

// A takeover is noticed, whatever goes wrong while it is.
func TestCommandTakenOverIsNoLongerHandledByTheOldProcess(t *testing.T) {
	for what, hiccup := range map[string]func(tr *world.Faulty){
		"at once": func(*world.Faulty) {},
		"the record cannot be read at first": func(tr *world.Faulty) {
			tr.Set(world.FailingStore("owner.", transport.ErrUnavailable))
			world.Settle(4 * time.Second)
		},
		"the answer to the new lease is lost": func(tr *world.Faulty) {
			var once sync.Once
			tr.SetAfter(func(_ context.Context, op, what string) (err error) {
				if op == "create" && strings.HasPrefix(what, "lease.") {
					once.Do(func() { err = transport.ErrUnknown })
				}
				return err
			})
		},
	} {
		t.Run(what, func(t *testing.T) {
			world.AcrossProcesses(t, func(w *world.World) {
				old, tr := w.Process("accounts")
				require.NoError(w, bus.Handle(w.Context(), old, world.Answering("old")))
				require.NoError(w, bus.HandleNone(w.Context(), old, func(context.Context, world.ResetAll) error { return nil }))
				tr.Set(world.FailingStore("", transport.ErrUnavailable))
				world.Settle(20 * time.Second)
				next := w.Bus(bus.Config{Service: "billing"})
				require.NoError(w, bus.Handle(w.Context(), next, world.Answering("next")))
				tr.Set(nil)
				hiccup(tr)
				tr.Set(nil)
				world.Settle(10 * time.Second)
				caller := w.Bus(bus.Config{Service: "caller"})
				for _, b := range []*bus.Bus{caller, old, next} {
					for range 20 {
						id, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
						require.NoError(w, err)
						require.Equal(w, world.UserID("next"), id)
					}
				}
				require.NoError(w, bus.Do(w.Context(), caller, world.ResetAll{}), "what nobody took stays")
				require.ErrorIs(w, bus.Handle(w.Context(), old, world.Answering("old")), bus.ErrOwned)
				require.NoError(w, next.Close(w.Context()))
				require.NoError(w, bus.Handle(w.Context(), old, world.Answering("old")), "free to take again")
			})
		})
	}
}

func TestRegistrationDoesNotGuess(t *testing.T) {
	for what, f := range map[string]world.Fault{
		"lease not written":   world.Failing("create", transport.ErrUnavailable),
		"record not readable": world.FailingStore("owner.", transport.ErrUnavailable),
		"owner's life not known": func(_ context.Context, op, what string) error {
			if op == "get" && strings.HasPrefix(what, "lease.") {
				return fmt.Errorf("no quorum: %w", transport.ErrUnavailable)
			}
			return nil
		},
		"record not written":       world.Failing("update", transport.ErrUnavailable),
		"handler not served":       world.Failing("serve", transport.ErrUnavailable),
		"everything is down":       world.Failing("", transport.ErrUnavailable),
		"a driver's own complaint": world.Failing("get", errors.New("something unheard of")),
	} {
		t.Run(what, func(t *testing.T) {
			world.AcrossProcesses(t, func(w *world.World) {
				// A record whose owner is gone, so that taking it over is a write.
				before, dead := w.Process("before")
				require.NoError(w, bus.Handle(w.Context(), before, world.Answering("before")))
				dead.Kill()
				world.Settle(leaseEnd)

				b, tr := w.Process("accounts")
				tr.Set(f)
				err := bus.Handle(w.Context(), b, world.Answering("accounts"))
				require.Equal(w, bus.CodeUnavailable, bus.CodeOf(err), "%v", err)
				require.ErrorContains(w, err, "user.create")
				tr.Set(nil)
				_, err = bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
				require.Equal(w, bus.CodeNoHandler, bus.CodeOf(err), "nothing is left behind")
				require.NoError(w, bus.Handle(w.Context(), b, world.Answering("accounts")), "and it can be tried again")
				id, err := bus.Execute(w.Context(), b, world.CreateUser{Name: "a"})
				require.NoError(w, err)
				require.Equal(w, world.UserID("accounts"), id)
			})
		})
	}
}

func TestStoreThatHangsBoundsTheRegistration(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		b, tr := w.Process("accounts")
		tr.Set(func(ctx context.Context, op, what string) error {
			if op == "get" {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		began := time.Now()
		err := bus.Handle(w.Context(), b, world.Answering("accounts"))
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err), "%v", err)
		require.Equal(w, 10*time.Second, time.Since(began).Round(time.Second), "Config.PublishTimeout")
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		err = bus.Handle(ctx, b, world.Answering("accounts"))
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err), "%v", err)
		require.Equal(w, 11*time.Second, time.Since(began).Round(time.Second), "or what ctx says")
	})
}

// The lease was written and the answer lost; what is registered later must still
// be held by a lease that is renewed.
func TestLeaseWhoseAnswerWasLostIsRenewed(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		b, tr := w.Process("accounts")
		tr.SetAfter(world.Failing("create", transport.ErrUnknown))
		require.Equal(w, bus.CodeUnknown, bus.CodeOf(bus.Handle(w.Context(), b, world.Answering("accounts"))))
		tr.SetAfter(nil)
		require.NoError(w, bus.Handle(w.Context(), b, world.Answering("accounts")))
		world.Settle(time.Minute)
		other := w.Bus(bus.Config{Service: "billing"})
		require.ErrorIs(w, bus.Handle(w.Context(), other, world.Answering("other")), bus.ErrOwned)
	})
}

// A service whose processes die again and again leaves their leases in its
// record; the one that lives must not fall out of it.
func TestProcessOutlivesManyThatDied(t *testing.T) {
	world.AcrossProcesses(t, func(w *world.World) {
		b, tr := w.Process("accounts")
		require.NoError(w, bus.Handle(w.Context(), b, world.Answering("accounts")))
		e, err := tr.Store().Get(w.Context(), "owner.user.create")
		require.NoError(w, err)
		var record struct {
			Service string   `json:"service"`
			Leases  []string `json:"leases"`
		}
		require.NoError(w, json.Unmarshal(e.Value, &record))
		require.Equal(w, "accounts", record.Service)
		for i := range 150 {
			record.Leases = append(record.Leases, fmt.Sprint("dead-", i))
		}
		v, err := json.Marshal(record)
		require.NoError(w, err)
		_, err = tr.Store().Update(w.Context(), e.Key, v, e.Revision, 0)
		require.NoError(w, err)

		second, dies := w.Process("accounts")
		require.NoError(w, bus.Handle(w.Context(), second, world.Answering("second")))
		e, err = tr.Store().Get(w.Context(), e.Key)
		require.NoError(w, err)
		require.NoError(w, json.Unmarshal(e.Value, &record))
		require.Len(w, record.Leases, 2, "those that ended are taken out")
		dies.Kill()
		world.Settle(leaseEnd)
		other := w.Bus(bus.Config{Service: "billing"})
		require.ErrorIs(w, bus.Handle(w.Context(), other, world.Answering("other")), bus.ErrOwned)
	})
}

func TestManyProcessesOfOneServiceRegisterAtOnce(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		const n = 20
		var all []*bus.Bus
		for range n {
			all = append(all, w.Bus(bus.Config{Service: "accounts"}))
		}
		var wg sync.WaitGroup
		for i, b := range all {
			wg.Go(func() {
				if err := bus.Handle(w.Context(), b, world.Answering(fmt.Sprint(i))); err != nil {
					w.Error(err)
				}
			})
		}
		wg.Wait()
		other := w.Bus(bus.Config{Service: "billing"})
		for i, b := range all { // each of them holds it
			require.ErrorIs(w, bus.Handle(w.Context(), other, world.Answering("other")), bus.ErrOwned, "%d left", n-i)
			require.NoError(w, b.Close(w.Context()))
		}
		require.NoError(w, bus.Handle(w.Context(), other, world.Answering("other")))
	})
}

func TestOneOfTwoServicesWins(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		for round := range 10 {
			services := []string{"accounts", "billing", "crm"}
			won := world.NewRecord[string]()
			var all []*bus.Bus
			var wg sync.WaitGroup
			for _, service := range services {
				for range 2 {
					b := w.Bus(bus.Config{Service: service})
					all = append(all, b)
					wg.Go(func() {
						err := bus.Handle(w.Context(), b, world.Answering(service))
						if err == nil {
							won.Add(service)
						} else if !errors.Is(err, bus.ErrOwned) {
							w.Error(err)
						}
					})
				}
			}
			wg.Wait()
			winners := won.All()
			require.Len(w, winners, 2, "round %d: both processes of one service", round)
			require.Equal(w, winners[0], winners[1], "round %d", round)
			id, err := bus.Execute(w.Context(), all[0], world.CreateUser{Name: "a"})
			require.NoError(w, err)
			require.Equal(w, world.UserID(winners[0]), id)
			for _, b := range all {
				require.NoError(w, b.Close(w.Context()))
			}
		}
	})
}
