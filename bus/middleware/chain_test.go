package middleware_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

var (
	errOops = errors.New("oops")
	errBusy = &bus.Error{Code: bus.CodeBusy, Op: "execute", Message: "full"}
)

// A message of each kind on each chain.
func sentCommand() *bus.Message {
	return &bus.Message{Kind: bus.KindCommand, Name: "user.create", ID: "c1", Header: bus.Header{}}
}

func sentEvent() *bus.Message {
	return &bus.Message{Kind: bus.KindEvent, Name: "user.created", ID: "e1", Header: bus.Header{}}
}

func handledCommand() *bus.Message {
	return &bus.Message{Kind: bus.KindCommand, Name: "user.create", ID: "c1", Handler: "accounts", Attempt: 1}
}

func handledEvent() *bus.Message {
	return &bus.Message{Kind: bus.KindEvent, Name: "user.created", ID: "e1", Group: "mailer", Handler: "default", Attempt: 1}
}

// onBothChains are the messages of every kind and chain, by what they are.
func onBothChains() map[string]*bus.Message {
	return map[string]*bus.Message{
		"sent command": sentCommand(), "sent event": sentEvent(),
		"handled command": handledCommand(), "handled event": handledEvent(),
	}
}

// answers is the end of a chain that returns one error after the other, and then
// none. It counts its runs.
type answers struct {
	errs     []error
	runs     int
	messages []*bus.Message
}

func (a *answers) handle(_ context.Context, m *bus.Message) (any, error) {
	a.runs++
	a.messages = append(a.messages, m)
	if len(a.errs) < a.runs {
		return "done", nil
	}
	return nil, a.errs[a.runs-1]
}

// asError returns err as a *bus.Error.
func asError(t *testing.T, err error) *bus.Error {
	t.Helper()
	var e *bus.Error
	require.ErrorAs(t, err, &e)
	return e
}
