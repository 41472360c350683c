package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/jitney-bus/jitney/transport"
)

// send stores the copy of an event and then removes its dead letter. What comes
// after the copy is stored is done even if ctx has ended.
func (r *redriver) send(ctx context.Context, d DeadLetter, m *transport.Message, edit string) (repeated bool, err error) {
	marks := redriveMarks{r.d}
	mark, err := marks.begin(ctx, d.ID, edit, r.o.force)
	if err != nil {
		return false, r.failed(d, err)
	}
	if repeated = mark.isStored(); !repeated {
		if err := r.publish(ctx, m); err != nil {
			if !mayBeStored(err) && mark.fresh {
				marks.forget(context.WithoutCancel(ctx), d.ID, mark)
			}
			return false, r.failed(d, err)
		}
	}
	ctx = context.WithoutCancel(ctx)
	if err := r.d.remove(ctx, r.op, d.ID); err != nil {
		marks.end(ctx, d.ID, false)
		return repeated, r.failed(d, fmt.Errorf("the copy is stored, but the dead letter is not removed; redrive it again, which does not store it twice: %w", err))
	}
	marks.end(ctx, d.ID, true)
	return repeated, nil
}

func (r *redriver) publish(ctx context.Context, m *transport.Message) error {
	ctx, cancel := r.d.step(ctx)
	defer cancel()
	err := r.d.b.tr.Publish(ctx, m)
	var pe *transport.PublishError
	if errors.As(err, &pe) && len(pe.Outcomes) == 1 {
		return fromOutcome(m, pe.Outcomes[0])
	}
	return fromTransport("publish", m.To.Name, m.ID, err)
}

// failed is the error of a result.
func (r *redriver) failed(d DeadLetter, err error) *Error {
	failed := &Error{Code: CodeOf(err), Op: r.op, Name: d.Name, ID: d.MessageID, Message: fmt.Sprintf("%s: %v", d.ID, err), cause: err}
	var e *Error
	if errors.As(err, &e) {
		failed.Wire, failed.Details, failed.Attempts = e.Wire, e.Details, e.Attempts
	}
	return failed
}
