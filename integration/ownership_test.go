package integration_test

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
	"github.com/jitney-bus/jitney/transport"
)

// leaseEnd is when a process that does not renew its lease has lost it: the
// pause of 10 s that it may take, the renewal that it was about to make, and a
// broker's whole seconds.
const leaseEnd = 16 * time.Second

func TestCommandOfADeadProcessIsFreeAfterItsLease(t *testing.T) {
	acrossProcesses(t, func(w *world) {
		dead, tr := w.process("accounts")
		require.NoError(w, bus.Handle(w.Context(), dead, answering("dead")))
		settle(time.Minute)
		other := w.bus(bus.Config{Service: "billing"})
		require.ErrorIs(w, bus.Handle(w.Context(), other, answering("other")), bus.ErrOwned, "a lease that is renewed holds")
		settle(20 * time.Second)
		tr.kill()
		died := time.Now()
		require.ErrorIs(w, bus.Handle(w.Context(), other, answering("other")), bus.ErrOwned, "nobody knows yet")
		for {
			err := bus.Handle(w.Context(), other, answering("other"))
			if err == nil {
				break
			}
			require.ErrorIs(w, err, bus.ErrOwned)
			settle(100 * time.Millisecond)
		}
		require.Less(w, time.Since(died), leaseEnd)
		require.Greater(w, time.Since(died), 6*time.Second, "renewed 3 s before it died at the earliest")
		id, err := bus.Execute(w.Context(), other, createUser{Name: "a"})
		require.NoError(w, err)
		require.Equal(w, userID("other"), id)
	})
}

func TestServiceOutlivesOneOfItsProcesses(t *testing.T) {
	acrossProcesses(t, func(w *world) {
		dead, tr := w.process("accounts")
		require.NoError(w, bus.Handle(w.Context(), dead, answering("dead")))
		require.NoError(w, bus.Handle(w.Context(), w.bus(bus.Config{Service: "accounts"}), answering("alive")))
		tr.kill()
		settle(time.Minute)
		other := w.bus(bus.Config{Service: "billing"})
		require.ErrorIs(w, bus.Handle(w.Context(), other, answering("other")), bus.ErrOwned)
		id, err := bus.Execute(w.Context(), other, createUser{Name: "a"})
		require.NoError(w, err)
		require.Equal(w, userID("alive"), id)
	})
}

func TestLeaseThatEndedIsMadeAgain(t *testing.T) {
	acrossProcesses(t, func(w *world) {
		b, tr := w.process("accounts")
		require.NoError(w, bus.Handle(w.Context(), b, answering("accounts")))
		tr.set(failingStore("", transport.ErrUnavailable))
		settle(time.Minute)
		tr.set(nil)
		settle(5 * time.Second)
		other := w.bus(bus.Config{Service: "billing"})
		require.ErrorIs(w, bus.Handle(w.Context(), other, answering("other")), bus.ErrOwned, "claimed again")
		id, err := bus.Execute(w.Context(), other, createUser{Name: "a"})
		require.NoError(w, err)
		require.Equal(w, userID("accounts"), id)
		settle(time.Minute)
		require.ErrorIs(w, bus.Handle(w.Context(), other, answering("other")), bus.ErrOwned, "and renewed from then on")
	})
}

// A takeover is noticed, whatever goes wrong while it is.
func TestCommandTakenOverIsNoLongerHandledByTheOldProcess(t *testing.T) {
	for what, hiccup := range map[string]func(tr *faulty){
		"at once": func(*faulty) {},
		"the record cannot be read at first": func(tr *faulty) {
			tr.set(failingStore("owner.", transport.ErrUnavailable))
			settle(4 * time.Second)
		},
		"the answer to the new lease is lost": func(tr *faulty) {
			var once sync.Once
			tr.setAfter(func(_ context.Context, op, what string) (err error) {
				if op == "create" && strings.HasPrefix(what, "lease.") {
					once.Do(func() { err = transport.ErrUnknown })
				}
				return err
			})
		},
	} {
		t.Run(what, func(t *testing.T) {
			acrossProcesses(t, func(w *world) {
				old, tr := w.process("accounts")
				require.NoError(w, bus.Handle(w.Context(), old, answering("old")))
				require.NoError(w, bus.HandleNone(w.Context(), old, func(context.Context, resetAll) error { return nil }))
				tr.set(failingStore("", transport.ErrUnavailable))
				settle(20 * time.Second)
				next := w.bus(bus.Config{Service: "billing"})
				require.NoError(w, bus.Handle(w.Context(), next, answering("next")))
				tr.set(nil)
				hiccup(tr)
				tr.set(nil)
				settle(10 * time.Second)
				caller := w.bus(bus.Config{Service: "caller"})
				for _, b := range []*bus.Bus{caller, old, next} {
					for range 20 {
						id, err := bus.Execute(w.Context(), b, createUser{Name: "a"})
						require.NoError(w, err)
						require.Equal(w, userID("next"), id)
					}
				}
				require.NoError(w, bus.Do(w.Context(), caller, resetAll{}), "what nobody took stays")
				require.ErrorIs(w, bus.Handle(w.Context(), old, answering("old")), bus.ErrOwned)
				require.NoError(w, next.Close(w.Context()))
				require.NoError(w, bus.Handle(w.Context(), old, answering("old")), "free to take again")
			})
		})
	}
}

func TestRegistrationDoesNotGuess(t *testing.T) {
	for what, f := range map[string]fault{
		"lease not written":   failing("create", transport.ErrUnavailable),
		"record not readable": failingStore("owner.", transport.ErrUnavailable),
		"owner's life not known": func(_ context.Context, op, what string) error {
			if op == "get" && strings.HasPrefix(what, "lease.") {
				return fmt.Errorf("no quorum: %w", transport.ErrUnavailable)
			}
			return nil
		},
		"record not written":       failing("update", transport.ErrUnavailable),
		"handler not served":       failing("serve", transport.ErrUnavailable),
		"everything is down":       failing("", transport.ErrUnavailable),
		"a driver's own complaint": failing("get", errors.New("something unheard of")),
	} {
		t.Run(what, func(t *testing.T) {
			acrossProcesses(t, func(w *world) {
				// A record whose owner is gone, so that taking it over is a write.
				before, dead := w.process("before")
				require.NoError(w, bus.Handle(w.Context(), before, answering("before")))
				dead.kill()
				settle(leaseEnd)

				b, tr := w.process("accounts")
				tr.set(f)
				err := bus.Handle(w.Context(), b, answering("accounts"))
				require.Equal(w, bus.CodeUnavailable, bus.CodeOf(err), "%v", err)
				require.ErrorContains(w, err, "user.create")
				tr.set(nil)
				_, err = bus.Execute(w.Context(), b, createUser{Name: "a"})
				require.Equal(w, bus.CodeNoHandler, bus.CodeOf(err), "nothing is left behind")
				require.NoError(w, bus.Handle(w.Context(), b, answering("accounts")), "and it can be tried again")
				id, err := bus.Execute(w.Context(), b, createUser{Name: "a"})
				require.NoError(w, err)
				require.Equal(w, userID("accounts"), id)
			})
		})
	}
}

func TestStoreThatHangsBoundsTheRegistration(t *testing.T) {
	acrossProcesses(t, func(w *world) {
		b, tr := w.process("accounts")
		tr.set(func(ctx context.Context, op, what string) error {
			if op == "get" {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		began := time.Now()
		err := bus.Handle(w.Context(), b, answering("accounts"))
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err), "%v", err)
		require.Equal(w, 10*time.Second, time.Since(began).Round(time.Second), "Config.PublishTimeout")
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		err = bus.Handle(ctx, b, answering("accounts"))
		require.Equal(w, bus.CodeTimeout, bus.CodeOf(err), "%v", err)
		require.Equal(w, 11*time.Second, time.Since(began).Round(time.Second), "or what ctx says")
	})
}

// The lease was written and the answer lost; what is registered later must still
// be held by a lease that is renewed.
func TestLeaseWhoseAnswerWasLostIsRenewed(t *testing.T) {
	acrossProcesses(t, func(w *world) {
		b, tr := w.process("accounts")
		tr.setAfter(failing("create", transport.ErrUnknown))
		require.Equal(w, bus.CodeUnknown, bus.CodeOf(bus.Handle(w.Context(), b, answering("accounts"))))
		tr.setAfter(nil)
		require.NoError(w, bus.Handle(w.Context(), b, answering("accounts")))
		settle(time.Minute)
		other := w.bus(bus.Config{Service: "billing"})
		require.ErrorIs(w, bus.Handle(w.Context(), other, answering("other")), bus.ErrOwned)
	})
}

// A service whose processes die again and again leaves their leases in its
// record; the one that lives must not fall out of it.
func TestProcessOutlivesManyThatDied(t *testing.T) {
	acrossProcesses(t, func(w *world) {
		b, tr := w.process("accounts")
		require.NoError(w, bus.Handle(w.Context(), b, answering("accounts")))
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

		second, dies := w.process("accounts")
		require.NoError(w, bus.Handle(w.Context(), second, answering("second")))
		e, err = tr.Store().Get(w.Context(), e.Key)
		require.NoError(w, err)
		require.NoError(w, json.Unmarshal(e.Value, &record))
		require.Len(w, record.Leases, 2, "those that ended are taken out")
		dies.kill()
		settle(leaseEnd)
		other := w.bus(bus.Config{Service: "billing"})
		require.ErrorIs(w, bus.Handle(w.Context(), other, answering("other")), bus.ErrOwned)
	})
}

func TestManyProcessesOfOneServiceRegisterAtOnce(t *testing.T) {
	everywhere(t, func(w *world) {
		const n = 20
		var all []*bus.Bus
		for range n {
			all = append(all, w.bus(bus.Config{Service: "accounts"}))
		}
		var wg sync.WaitGroup
		for i, b := range all {
			wg.Go(func() {
				if err := bus.Handle(w.Context(), b, answering(fmt.Sprint(i))); err != nil {
					w.Error(err)
				}
			})
		}
		wg.Wait()
		other := w.bus(bus.Config{Service: "billing"})
		for i, b := range all { // each of them holds it
			require.ErrorIs(w, bus.Handle(w.Context(), other, answering("other")), bus.ErrOwned, "%d left", n-i)
			require.NoError(w, b.Close(w.Context()))
		}
		require.NoError(w, bus.Handle(w.Context(), other, answering("other")))
	})
}

func TestOneOfTwoServicesWins(t *testing.T) {
	everywhere(t, func(w *world) {
		for round := range 10 {
			services := []string{"accounts", "billing", "crm"}
			won := newRecord[string]()
			var all []*bus.Bus
			var wg sync.WaitGroup
			for _, service := range services {
				for range 2 {
					b := w.bus(bus.Config{Service: service})
					all = append(all, b)
					wg.Go(func() {
						err := bus.Handle(w.Context(), b, answering(service))
						if err == nil {
							won.add(service)
						} else if !errors.Is(err, bus.ErrOwned) {
							w.Error(err)
						}
					})
				}
			}
			wg.Wait()
			winners := won.all()
			require.Len(w, winners, 2, "round %d: both processes of one service", round)
			require.Equal(w, winners[0], winners[1], "round %d", round)
			id, err := bus.Execute(w.Context(), all[0], createUser{Name: "a"})
			require.NoError(w, err)
			require.Equal(w, userID(winners[0]), id)
			for _, b := range all {
				require.NoError(w, b.Close(w.Context()))
			}
		}
	})
}
