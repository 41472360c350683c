package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/bustest"
	"github.com/jitney-bus/jitney/bus/bustest/natstest"
)

// both runs a test on both drivers, in fake time.
func both(t *testing.T, f func(t *testing.T, h *bustest.Harness, a *app)) {
	body := func(t *testing.T, h *bustest.Harness) {
		a := &app{log: slog.New(slog.DiscardHandler), bank: book}
		require.NoError(t, a.register(t.Context(), h.Bus))
		f(t, h, a)
	}
	t.Run("memory", func(t *testing.T) { bustest.Run(t, body) })
	t.Run("nats", func(t *testing.T) { natstest.Run(t, body) })
}

func TestImport(t *testing.T) {
	both(t, func(t *testing.T, h *bustest.Harness, a *app) {
		done := 0
		require.NoError(t, a.importAll(t.Context(), h.Bus, "job", payments(150), func(int) { done++ }))
		require.Equal(t, 150, done, "heard before importAll returned")

		bustest.Executed[ImportPayment](h).InSession("job").Count(150)
		bustest.Published[PaymentImported](h).InSession("job").Count(150)
		bustest.DeadLettered[PaymentImported](h).None()
		stored, batches, _ := a.totals()
		require.Equal(t, 150, stored)
		require.Less(t, batches, 150)

		// The large one is checked before anybody is told of it.
		require.Equal(t, []string{"check job/100", "notify job/100"}, a.reviews)
		require.Equal(t, bus.EndClosed, bustest.Published[bus.SessionEnded](h).One().Message.Reason)
	})
}

func TestAnInvalidRowEndsTheJob(t *testing.T) {
	both(t, func(t *testing.T, h *bustest.Harness, a *app) {
		rows := payments(3)
		rows[1].Cents = 0
		err := a.importAll(t.Context(), h.Bus, "job", rows, func(int) {})
		require.Equal(t, bus.CodeInvalid, bus.CodeOf(err))
		require.ErrorContains(t, err, "row 2 pays 0 cents")
		bustest.Published[PaymentImported](h).One()
		ended := bustest.Published[bus.SessionEnded](h).One()
		require.Equal(t, bus.EndFailed, ended.Message.Reason)
	})
}

// A bank that is busy twice makes its rows late, not lost.
func TestABusyBank(t *testing.T) {
	both(t, func(t *testing.T, h *bustest.Harness, a *app) {
		busy := 2
		a.bank = func(context.Context, ImportPayment) error {
			if busy--; busy >= 0 {
				return errBusy
			}
			return nil
		}
		require.NoError(t, a.importAll(t.Context(), h.Bus, "job", payments(1), func(int) {}))
		bustest.Published[PaymentImported](h).One()
	})
}

// The store is away for a while: its batch is tried again, and nobody else waits.
func TestTheStoreIsAway(t *testing.T) {
	both(t, func(t *testing.T, h *bustest.Harness, a *app) {
		bustest.On[PaymentImported](h).InGroup("ledger").Nth(1).Fail(errors.New("connection refused"))
		done := 0
		require.NoError(t, a.importAll(t.Context(), h.Bus, "job", payments(3), func(int) { done++ }))
		require.Equal(t, 3, done)
		bustest.DeadLettered[PaymentImported](h).None()
		stored, _, _ := a.totals()
		require.Equal(t, 3, stored)
	})
}

// Two jobs at once hear of their own rows only.
func TestJobsDoNotMix(t *testing.T) {
	both(t, func(t *testing.T, h *bustest.Harness, a *app) {
		counts := map[string]int{}
		for _, job := range []string{"one", "two"} {
			h.Go(func() {
				done := 0
				if err := a.importAll(context.WithoutCancel(t.Context()), h.Bus, job, payments(20), func(int) {
					done++
					time.Sleep(time.Millisecond)
				}); err != nil {
					t.Error(err)
				}
				a.mu.Lock()
				defer a.mu.Unlock()
				counts[job] = done
			})
		}
		h.Wait()
		require.Equal(t, map[string]int{"one": 20, "two": 20}, counts)
	})
}
