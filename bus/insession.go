package bus

import (
	"context"
	"errors"
	"fmt"
)

// errGone is InSession's function that ended its goroutine.
var errGone = errors.New("the function did not return")

// InSession opens the session id, calls fn and closes the session again, whether
// fn returns, fails or panics. It returns after the session's listeners have
// handled everything that was published in it before, as Session.Close does, with
// fn's error joined with what went wrong in closing. A listener that gave up on an
// event has made a dead letter of it, which is no error here. A panic goes on when
// the session is closed.
//
// The ctx of fn belongs to the session: what is sent with it, also on the bus, is
// sent in the session. It is cancelled with ErrSessionExpired as its cause when
// the session ends underneath fn.
func InSession(ctx context.Context, b *Bus, id string, fn func(context.Context, *Session) error) (err error) {
	if fn == nil {
		return errorf(CodeInvalid, "session", "", "function of session %q is nil", id)
	}
	s, err := b.Session(ctx, id)
	if err != nil {
		return err
	}
	inner, cancel := context.WithCancelCause(ContextWithSession(ctx, id))
	defer cancel(nil)
	defer context.AfterFunc(s.own.work, func() { cancel(context.Cause(s.own.work)) })()

	reason, cause := EndPanicked, errGone // unless fn returns
	defer func() {
		r := recover()
		if r != nil {
			cause = fmt.Errorf("panic: %v", r)
		}
		closed := s.endWithin(context.WithoutCancel(ctx), reason, cause)
		if r != nil {
			panic(r)
		}
		err = errors.Join(err, closed)
	}()
	if err = fn(inner, s); err != nil {
		reason, cause = EndFailed, err
	} else {
		reason, cause = EndClosed, nil
	}
	return err
}
