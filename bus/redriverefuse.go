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
	case d.Kind != KindEvent:
		return r.refuse(d, CodeInvalid, nil, "it is no event")
	case d.Group == "":
		return r.refuse(d, CodeInvalid, nil, "it failed in a listener that was private or of a session, and nobody else can be sent a copy")
	case checkGroup(d.Group) != nil || checkName(d.Name) != nil:
		return r.refuse(d, CodeInvalid, nil, fmt.Sprintf("event %q of group %q cannot be addressed", d.Name, d.Group))
	case d.Malformed != "":
		return r.refuse(d, CodeInvalid, nil, "the message is malformed: "+d.Malformed)
	case d.Session == "" || r.o.force:
		return nil
	}
	open, err := r.isOpen(ctx, d.Session)
	switch {
	case err != nil:
		return withOp(err, r.op)
	case !open:
		return r.refuse(d, CodeClosed, ErrSessionClosed, fmt.Sprintf("its session %q has ended; WithForce redrives it to its group all the same", d.Session))
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
