package bus

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// openFor is for how long a redriver trusts what it knows of open sessions.
const openFor = 5 * time.Second

// refusal says why a dead letter is not to be redriven.
func (r *redriver) refusal(ctx context.Context, d DeadLetter) error {
	switch {
	case d.Malformed != "":
		return r.refuse(d, CodeInvalid, nil, "the message is malformed: "+d.Malformed)
	case d.Kind != KindCommand && d.Kind != KindEvent:
		return r.refuse(d, CodeInvalid, nil, "it is neither a command nor an event")
	case d.Kind == KindEvent && d.Group == "":
		return r.refuse(d, CodeInvalid, nil, "it failed in a listener that was private or of a session, and nobody else can be sent a copy")
	case checkName(d.Name) != nil || d.Kind == KindEvent && checkGroup(d.Group) != nil:
		return r.refuse(d, CodeInvalid, nil, fmt.Sprintf("%v %q of group %q cannot be addressed", d.Kind, d.Name, d.Group))
	case r.o.force:
		return nil
	case d.Kind == KindCommand && d.rec.Message.Header.Get(headerIdempotencyKey) == "":
		return r.refuse(d, CodeInvalid, nil, "it is a command without an idempotency key, and may have taken effect before it failed; WithForce executes it again all the same")
	case d.Session == "":
		return nil
	}
	open, err := r.isOpen(ctx, d.Session)
	switch {
	case err != nil:
		return withOp(err, r.op)
	case !open:
		return r.refuse(d, CodeClosed, ErrSessionClosed, fmt.Sprintf("its session %q has ended; WithForce redrives it all the same, to whom it finds outside of it", d.Session))
	}
	return nil
}

func (r *redriver) refuse(d DeadLetter, code Code, cause error, why string) error {
	return &Error{
		Code: code, Op: r.op, Name: d.Name, ID: d.MessageID,
		Message: fmt.Sprintf("%v: %s: %s", ErrNotRedrivable, d.ID, why), cause: errors.Join(ErrNotRedrivable, cause),
	}
}

// isOpen reports whether a session is open in some process.
func (r *redriver) isOpen(ctx context.Context, session string) (bool, error) {
	if r.d.b.sessions.scope(session) != nil {
		return true, nil
	}
	if r.open == nil || time.Since(r.openAsOf) > openFor {
		all, err := r.d.b.Sessions(ctx)
		if err != nil {
			return false, err
		}
		r.open, r.openAsOf = map[string]bool{}, time.Now()
		for _, s := range all {
			r.open[s.ID] = true
		}
	}
	return r.open[session], nil
}
