package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/middleware"
)

func TestTimeoutEndsTheContext(t *testing.T) {
	for what, m := range onBothChains() {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			var cause error
			f := middleware.Timeout(time.Second)(func(ctx context.Context, _ *bus.Message) (any, error) {
				<-ctx.Done()
				cause = context.Cause(ctx)
				return nil, fmt.Errorf("query: %w", ctx.Err())
			})
			_, err := f(t.Context(), m)
			require.Equal(t, time.Second, time.Since(began), what)
			require.Equal(t, bus.CodeTimeout, bus.CodeOf(err), what)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, cause, context.DeadlineExceeded)
			for _, e := range []error{err, cause} {
				require.ErrorContains(t, e, m.Name)
				require.ErrorContains(t, e, "longer than 1s")
				if m.Attempt > 0 {
					require.ErrorContains(t, e, map[bus.Kind]string{
						bus.KindCommand: "the handler of user.create", bus.KindEvent: `the listener "default" of user.created in group "mailer"`,
					}[m.Kind])
				}
			}
			require.ErrorContains(t, err, "query: context deadline exceeded")
		})
	}
}

func TestTimeoutOfAPrivateListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := handledEvent()
		m.Group = ""
		_, err := middleware.Timeout(time.Second)(ignoring(2*time.Second, errOops))(t.Context(), m)
		require.ErrorContains(t, err, `the private listener "default" of user.created took longer`)
	})
}

// ignoring is the end of a chain that ignores its context.
func ignoring(d time.Duration, err error) bus.Func {
	return func(context.Context, *bus.Message) (any, error) {
		time.Sleep(d)
		if err != nil {
			return nil, err
		}
		return "done", nil
	}
}

func TestTimeoutWaitsForWhatIgnoresIt(t *testing.T) {
	invalid := &bus.Error{Code: bus.CodeInvalid, Message: "no such user"}
	late := &bus.Error{Code: bus.CodeTimeout, Op: "execute", Name: "x", Message: "context deadline exceeded"}
	nested := fmt.Errorf("%w: %w", late, context.DeadlineExceeded)
	tests := []struct {
		what  string
		took  time.Duration
		err   error
		m     *bus.Message
		code  bus.Code
		asIs  bool
		marks func(error) bool
	}{
		{what: "success", took: 3, m: handledCommand()},
		{what: "in time", took: 1, err: errOops, m: handledCommand(), code: bus.CodeFailed, asIs: true},
		{what: "in time, a timeout of its own", took: 1, err: context.DeadlineExceeded, m: handledCommand(), code: bus.CodeTimeout, asIs: true},
		{what: "late", took: 3, err: errOops, m: handledCommand(), code: bus.CodeTimeout},
		{what: "late with a reason", took: 3, err: invalid, m: handledCommand(), code: bus.CodeInvalid, asIs: true},
		{what: "late in a call of its own", took: 3, err: nested, m: handledEvent(), code: bus.CodeTimeout},
		{what: "late and permanent", took: 3, err: bus.Permanent(errOops), m: handledEvent(), code: bus.CodeTimeout, marks: bus.IsPermanent},
		{what: "the bus's own, sent", took: 3, err: errBusy, m: sentCommand(), code: bus.CodeBusy, asIs: true},
		{what: "the bus's own timeout, sent", took: 3, err: nested, m: sentEvent(), code: bus.CodeTimeout, asIs: true},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			v, err := middleware.Timeout(2*time.Second)(ignoring(tt.took*time.Second, tt.err))(t.Context(), tt.m)
			require.Equal(t, tt.took*time.Second, time.Since(began), tt.what)
			require.Equal(t, tt.code, bus.CodeOf(err), tt.what)
			if tt.err == nil {
				require.Equal(t, "done", v)
				return
			}
			require.ErrorIs(t, err, tt.err, tt.what)
			require.Equal(t, tt.asIs, err == tt.err, "%s: %v", tt.what, err)
			if !tt.asIs {
				require.ErrorIs(t, err, context.DeadlineExceeded, tt.what)
			}
			if tt.marks != nil {
				require.True(t, tt.marks(err), tt.what)
			}
		})
	}
}

// A deadline of the caller that comes first is the caller's.
func TestTimeoutAfterTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waiting := func(ctx context.Context, _ *bus.Message) (any, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		f := middleware.Timeout(time.Minute)(waiting)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := f(ctx, handledCommand())
		require.Equal(t, context.DeadlineExceeded, err)

		stopped, stop := context.WithCancelCause(t.Context())
		stop(errOops)
		_, err = f(stopped, handledEvent())
		require.Equal(t, errOops, err)

		inner := middleware.Timeout(time.Hour)(f)
		_, err = inner(t.Context(), handledEvent())
		require.ErrorContains(t, err, "longer than 1m0s")
		require.False(t, errors.Is(err, errOops))
	})
}
