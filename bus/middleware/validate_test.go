package middleware_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/middleware"
)

func TestValidateRefuses(t *testing.T) {
	var end answers
	f := middleware.Validate(func(_ context.Context, m *bus.Message) error {
		if m.Name != "" {
			return errOops
		}
		return nil
	})(end.handle)
	for what, m := range onBothChains() {
		_, err := f(t.Context(), m)
		require.Equal(t, bus.CodeInvalid, bus.CodeOf(err), what)
		require.ErrorIs(t, err, errOops, what)
		require.Equal(t, what == "handled event", bus.IsPermanent(err), what)
		e := asError(t, err)
		require.Equal(t, "oops", e.Message)
		require.Equal(t, m.ID, e.ID)
		require.Equal(t, map[string]string{"sent command": "execute", "sent event": "publish"}[what], e.Op, what)
	}
	require.Zero(t, end.runs)
	v, err := f(t.Context(), &bus.Message{Attempt: 1})
	require.NoError(t, err)
	require.Equal(t, "done", v)
}

func TestValidateKeepsWhatAnErrorTells(t *testing.T) {
	f := middleware.Validate(func(context.Context, *bus.Message) error {
		return &bus.Error{Code: bus.CodeUnknown, Message: "no", Wire: "user.exists", Details: map[string]string{"field": "name"}}
	})((&answers{}).handle)
	_, err := f(t.Context(), handledCommand())
	e := asError(t, err)
	require.Equal(t, bus.CodeInvalid, e.Code, "a validation is always of this code")
	require.Equal(t, "user.exists", e.Wire)
	require.Equal(t, map[string]string{"field": "name"}, e.Details)
}

// What fails because its bus stops says nothing of the event.
func TestValidateWithAContextThatHasEnded(t *testing.T) {
	f := middleware.Validate(func(ctx context.Context, _ *bus.Message) error { return ctx.Err() })((&answers{}).handle)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := f(ctx, handledEvent())
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, bus.IsPermanent(err))
}

// Of a batch each event is asked about, and what is wrong is taken out.
func TestValidateOfABatch(t *testing.T) {
	var asked []string
	var end answers
	f := middleware.ValidateType(func(_ context.Context, b *book) error {
		asked = append(asked, b.Name)
		if b.Name == "bad" {
			return errOops
		}
		return nil
	})(end.handle)
	m := handledEvent()
	for _, name := range []string{"a", "bad", "gone", "c"} {
		e := handledEvent()
		e.Value = book{name}
		m.Events = append(m.Events, e)
	}
	m.Events[2].Refuse(nil)
	_, err := f(t.Context(), m)
	require.NoError(t, err)
	require.Equal(t, 1, end.runs)
	require.Equal(t, []string{"a", "bad", "c"}, asked)
	for i, want := range []bool{false, true, true, false} {
		refused, err := m.Events[i].Refused()
		require.Equal(t, want, refused, i)
		if i == 1 {
			require.True(t, bus.IsPermanent(err))
			require.Equal(t, bus.CodeInvalid, bus.CodeOf(err))
			require.ErrorIs(t, err, errOops)
		} else {
			require.NoError(t, err)
		}
	}
}

type titled interface{ Title() string }

type book struct{ Name string }

func (b book) Title() string { return b.Name }

func TestValidateType(t *testing.T) {
	var seen []string
	see := func(s string) error { seen = append(seen, s); return errOops }
	byValue := middleware.ValidateType(func(_ context.Context, b book) error { return see("value " + b.Name) })
	byPointer := middleware.ValidateType(func(_ context.Context, b *book) error { return see("pointer " + b.Name) })
	byInterface := middleware.ValidateType(func(_ context.Context, b titled) error { return see("interface " + b.Title()) })
	tests := []struct {
		m     bus.Middleware
		value any
		want  []string
	}{
		{byValue, book{"a"}, []string{"value a"}},
		{byValue, &book{"b"}, []string{"value b"}},
		{byPointer, book{"c"}, []string{"pointer c"}},
		{byPointer, &book{"d"}, []string{"pointer d"}},
		{byInterface, book{"e"}, []string{"interface e"}},
		{byInterface, &book{"f"}, []string{"interface f"}},
		{byValue, createUser{Name: "g"}, nil},
		{byPointer, &createUser{Name: "h"}, nil},
		{byInterface, createUser{Name: "i"}, nil},
		{byPointer, nil, nil},
	}
	for _, tt := range tests {
		seen = nil
		m := handledCommand()
		m.Value = tt.value
		_, err := tt.m((&answers{}).handle)(t.Context(), m)
		require.Equal(t, tt.want, seen, "%v", tt.value)
		require.Equal(t, tt.want != nil, errors.Is(err, errOops))
	}
}

func TestRequireSession(t *testing.T) {
	f := middleware.RequireSession()((&answers{}).handle)
	for what, m := range onBothChains() {
		_, err := f(t.Context(), m)
		require.Equal(t, bus.CodeInvalid, bus.CodeOf(err), what)
		m.Session = "s"
		_, err = f(t.Context(), m)
		require.NoError(t, err, what)
	}
}

func TestCommandsAndEvents(t *testing.T) {
	mark := func(name string) bus.Middleware {
		return func(next bus.Func) bus.Func {
			return func(ctx context.Context, m *bus.Message) (any, error) {
				_, err := next(ctx, m)
				return name, err
			}
		}
	}
	for what, m := range onBothChains() {
		commands, err := middleware.Commands(mark("marked"))((&answers{}).handle)(t.Context(), m)
		require.NoError(t, err)
		events, err := middleware.Events(mark("marked"))((&answers{}).handle)(t.Context(), m)
		require.NoError(t, err)
		if m.Kind == bus.KindCommand {
			require.Equal(t, []any{"marked", "done"}, []any{commands, events}, what)
		} else {
			require.Equal(t, []any{"done", "marked"}, []any{commands, events}, what)
		}
	}
}
