package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// trap is an error whose method of that name panics; nil, each of them does.
type trap struct{ method string }

func (e *trap) Error() string { e.may("Error"); return "trap in " + e.method }
func (e *trap) Is(error) bool { e.may("Is"); return false }
func (e *trap) As(any) bool   { e.may("As"); return false }
func (e *trap) Unwrap() error { e.may("Unwrap"); return nil }
func (e *trap) may(what string) {
	if e.method == what {
		panic(e) // which cannot be printed either
	}
}

func TestErrorsThatPanicDoNotEndTheProcess(t *testing.T) {
	pass := func(next bus.Func) bus.Func { return next }
	for what, fail := range map[string]func() error{
		"typed nil":         func() error { var e *trap; return e },
		"nil error of ours": func() error { var e *bus.Error; return e },
		"Error":             func() error { return &trap{"Error"} },
		"Is":                func() error { return &trap{"Is"} },
		"As":                func() error { return &trap{"As"} },
		"Unwrap":            func() error { return &trap{"Unwrap"} },
		"permanent":         func() error { return bus.Permanent(&trap{"Error"}) },
		"joined":            func() error { return errors.Join(world.ErrOops, &trap{"Is"}) },
		"panic":             func() error { panic(&trap{"Error"}) },
	} {
		for chain, opts := range map[string][]bus.SubscribeOption{"": nil, ", in a chain": {bus.WithMiddleware(pass)}} {
			t.Run(what+chain, func(t *testing.T) {
				world.Everywhere(t, func(w *world.World) {
					tr := w.Open()
					b := w.BusOn(tr, bus.Config{Retry: resilience.Retry{MaxRetries: 1}})
					good := world.NewRecord[world.UserID]()
					_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e world.UserCreated) error {
						if e.ID == "good" {
							good.Add(e.ID)
							return nil
						}
						return fail()
					}, opts...)
					require.NoError(w, err)
					require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{}))
					d := w.DeadLetters(tr, 1)[0]
					require.Equal(w, "panic", d.Code)
					require.Regexp(w, `trap|bus.Error`, d.Error, "it names the type")
					require.NotEmpty(w, d.Stack)
					require.Equal(w, 2, d.Attempts)
					require.NoError(w, bus.Publish(w.Context(), b, world.UserCreated{ID: "good"}))
					good.Wait(w, 1)
				})
			})
		}
	}
}

// fussy validates, and reads itself, as its Note says.
type fussy struct{ Note string }

func (fussy) MessageName() string { return "fussy" }

func (e fussy) Validate() error {
	switch e.Note {
	case "typed nil":
		var err *trap
		return err
	case "panics":
		panic(&trap{"Is"})
	case "":
		return nil
	}
	return &trap{e.Note}
}

func (e *fussy) UnmarshalJSON(b []byte) error {
	if err := json.Unmarshal(b, &e.Note); err != nil {
		return err
	}
	if e.Note == "unreadable" {
		return &trap{"As"}
	}
	return nil
}

// What Validate and a decoder return is the user's too, and it is asked on
// receipt, whoever sent the event.
func TestEventsThatAreInvalidOnReceiptBecomeDeadLetters(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		b := w.BusOn(tr, bus.Config{})
		seen := world.NewRecord[string]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e fussy) error { seen.Add(e.Note); return nil })
		require.NoError(w, err)
		notes := []string{"typed nil", "panics", "Error", "Is", "As", "Unwrap", "plain"}
		if !w.InProcess {
			notes = append(notes, "unreadable")
		}
		for _, note := range append(notes, "") {
			m := &transport.Message{To: transport.Address{Name: "fussy"}, ID: "n-" + note}
			if w.InProcess {
				m.Value = fussy{note}
			} else {
				m.Body, err = json.Marshal(note)
				require.NoError(w, err)
			}
			require.NoError(w, tr.Publish(w.Context(), m))
		}
		require.Equal(w, []string{""}, seen.Wait(w, 1))
		world.Settle(time.Minute)
		for _, d := range w.DeadLetters(tr, len(notes)) {
			require.Contains(w, []string{"invalid", "panic"}, d.Code, d.Message.ID)
			require.Zero(w, d.Attempts, "no handler ran")
		}
		require.Len(w, seen.All(), 1)
	})
}
