package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
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
		"joined":            func() error { return errors.Join(errOops, &trap{"Is"}) },
		"panic":             func() error { panic(&trap{"Error"}) },
	} {
		for chain, opts := range map[string][]bus.SubscribeOption{"": nil, ", in a chain": {bus.WithMiddleware(pass)}} {
			t.Run(what+chain, func(t *testing.T) {
				everywhere(t, func(w *world) {
					tr := w.open()
					b := w.busOn(tr, bus.Config{Retry: resilience.Retry{MaxRetries: 1}})
					good := newRecord[userID]()
					_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e userCreated) error {
						if e.ID == "good" {
							good.add(e.ID)
							return nil
						}
						return fail()
					}, opts...)
					require.NoError(w, err)
					require.NoError(w, bus.Publish(w.Context(), b, userCreated{}))
					d := w.deadLetters(tr, 1)[0]
					require.Equal(w, "panic", d.Code)
					require.Regexp(w, `trap|bus.Error`, d.Error, "it names the type")
					require.NotEmpty(w, d.Stack)
					require.Equal(w, 2, d.Attempts)
					require.NoError(w, bus.Publish(w.Context(), b, userCreated{ID: "good"}))
					good.wait(w, 1)
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
	everywhere(t, func(w *world) {
		tr := w.open()
		b := w.busOn(tr, bus.Config{})
		seen := newRecord[string]()
		_, err := bus.Subscribe(w.Context(), b, func(_ context.Context, e fussy) error { seen.add(e.Note); return nil })
		require.NoError(w, err)
		notes := []string{"typed nil", "panics", "Error", "Is", "As", "Unwrap", "plain"}
		if !w.inProcess {
			notes = append(notes, "unreadable")
		}
		for _, note := range append(notes, "") {
			m := &transport.Message{To: transport.Address{Name: "fussy"}, ID: "n-" + note}
			if w.inProcess {
				m.Value = fussy{note}
			} else {
				m.Body, err = json.Marshal(note)
				require.NoError(w, err)
			}
			require.NoError(w, tr.Publish(w.Context(), m))
		}
		require.Equal(w, []string{""}, seen.wait(w, 1))
		settle(time.Minute)
		for _, d := range w.deadLetters(tr, len(notes)) {
			require.Contains(w, []string{"invalid", "panic"}, d.Code, d.Message.ID)
			require.Zero(w, d.Attempts, "no handler ran")
		}
		require.Len(w, seen.all(), 1)
	})
}
