package bus

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// hostile is an error whose method of that name panics.
type hostile struct{ method string }

func (e *hostile) Error() string { e.may("Error"); return e.method }
func (e *hostile) Is(error) bool { e.may("Is"); return false }
func (e *hostile) As(any) bool   { e.may("As"); return false }
func (e *hostile) Unwrap() error { e.may("Unwrap"); return nil }
func (e *hostile) may(what string) {
	if e.method == what {
		panic(e)
	}
}

// circle wraps itself.
type circle struct{ many bool }

func (circle) Error() string { return "circle" }
func (e circle) Unwrap() []error {
	if e.many {
		return []error{e, e}
	}
	return []error{errors.New("end"), e}
}

// liar says that it is whatever it is asked for.
type liar struct{}

func (liar) Error() string { return "liar" }
func (liar) As(any) bool   { return true }

func TestSane(t *testing.T) {
	require.NoError(t, sane(nil))
	var typed *hostile
	for name, err := range map[string]error{
		"typed nil": typed, "nil of ours": (*Error)(nil),
		"Error": &hostile{"Error"}, "Is": &hostile{"Is"}, "As": &hostile{"As"}, "Unwrap": &hostile{"Unwrap"},
		"circle": circle{}, "circle of many": circle{many: true}, "liar": liar{},
		"wrapped": fmt.Errorf("a: %w", &hostile{"Is"}), "permanent": Permanent(&hostile{"Error"}),
		"joined": errors.Join(errors.New("a"), &hostile{"As"}),
		"panic":  &panicError{value: &hostile{"Is"}, stack: "where"},
	} {
		t.Run(name, func(t *testing.T) {
			got := sane(err)
			var p *panicError
			require.ErrorAs(t, got, &p)
			require.NotEmpty(t, got.Error())
			require.NotEmpty(t, p.stack)
			require.Equal(t, CodeFailed, CodeOf(got))
			require.NoError(t, p.Unwrap(), "nothing of it is left")
		})
	}
	require.Equal(t, "where", sane(&panicError{value: &hostile{"Is"}, stack: "where"}).(*panicError).stack)
	require.ErrorContains(t, sane(typed), "nil *bus.hostile")
	for _, err := range []error{
		errors.New("a"), context.Canceled, &hostile{"none"}, Permanent(errors.New("a")), &Error{Code: CodeBusy},
		&panicError{value: errors.New("a")}, errors.Join(errors.New("a"), errors.New("b")),
	} {
		require.Same(t, err, sane(err), "%v", err)
	}
}
