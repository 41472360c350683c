package bus

import (
	"context"
	"errors"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// DeadLetters is what could not be handled: to look at, to send back to what
// failed, or to throw away. It keeps nothing itself, is safe for concurrent use,
// and sees the dead letters of every process that shares the transport.
//
// Who may call it sees the bodies and errors of every service and session. On NATS
// that is a right of its own: see the permissions in docs/wire.md.
//
// Each call to the transport is bounded by Config.PublishTimeout (10 s), whatever
// the deadline of ctx; a call that goes through many dead letters is bounded by ctx
// alone. Errors are of type *Error: CodeClosed after Close of the bus, CodeInvalid
// for an argument that breaks a rule, CodeNotFound with ErrNoDeadLetter, and
// CodeUnavailable, CodeTimeout, CodePermission and CodeUnknown as the transport
// says.
type DeadLetters struct{ b *Bus }

// DeadLetters returns the dead letters of the bus's transport.
func (b *Bus) DeadLetters() *DeadLetters { return &DeadLetters{b} }

// ErrNoDeadLetter: there is no dead letter of that id. It may have been there: one
// that is redriven, discarded or too old is gone.
var ErrNoDeadLetter = errors.New("no such dead letter")

// maxDeadID is the longest id of a dead letter.
const maxDeadID = 128

// Get returns one dead letter by its id. ErrNoDeadLetter: it is not there.
func (d *DeadLetters) Get(ctx context.Context, id string) (DeadLetter, error) {
	r, err := d.get(ctx, "get dead letter", id)
	if err != nil {
		return DeadLetter{}, err
	}
	return d.b.deadLetter(r), nil
}

func (d *DeadLetters) get(ctx context.Context, op, id string) (*transport.DeadLetter, error) {
	if err := d.check(ctx, op, id); err != nil {
		return nil, err
	}
	ctx, cancel := d.step(ctx)
	defer cancel()
	r, err := d.b.tr.DeadLetters().Get(ctx, id)
	return r, fromDeadLetters(op, id, err)
}

// Discard deletes one dead letter. Its message is gone for what failed.
// ErrNoDeadLetter: it is not there.
func (d *DeadLetters) Discard(ctx context.Context, id string) error {
	const op = "discard dead letter"
	r, err := d.get(ctx, op, id) // deleting what is not there is no error below
	if err != nil {
		return err
	}
	if err := d.remove(ctx, op, id); err != nil {
		return err
	}
	d.b.log.Info("dead letter discarded", "dead_letter", id, "name", r.Message.To.Name, "id", r.Message.ID,
		"group", r.Group, "handler", r.Handler)
	return nil
}

func (d *DeadLetters) remove(ctx context.Context, op, id string) error {
	ctx, cancel := d.step(ctx)
	defer cancel()
	return fromDeadLetters(op, id, d.b.tr.DeadLetters().Remove(ctx, id))
}

// Count returns how many dead letters match f. The zero filter, which matches all,
// asks the transport for its count; any other one reads them all.
func (d *DeadLetters) Count(ctx context.Context, f DeadLetterFilter) (int, error) {
	const op = "count dead letters"
	if f.isZero() {
		st, err := d.stats(ctx, op)
		return st.Count, err
	}
	n := 0
	err := d.scan(ctx, op, f, false, func(DeadLetter) bool { n++; return true })
	return n, err
}

// DeadLetterStats says how full the dead letters are.
type DeadLetterStats struct {
	// Count is how many there are, Oldest when the oldest was stored.
	Count  int       `json:"count"`
	Oldest time.Time `json:"oldest,omitzero"`
	// Max is how many there may be and MaxAge how old they become; 0 is no limit.
	Max    int           `json:"max,omitempty"`
	MaxAge time.Duration `json:"max_age_ns,omitempty"`
	// DropOldest: when they are full, the oldest is dropped for the new one.
	// Otherwise the new one is refused, and its event stays with its group and is
	// tried again.
	DropOldest bool `json:"drop_oldest,omitempty"`
	// Dropped and Expired count those that made room for newer ones and those that
	// became too old, as far as the transport of this process has noticed. Each is
	// logged by the transport too. On NATS nobody notices those that become too old:
	// watch Oldest.
	Dropped uint64 `json:"dropped,omitempty"`
	Expired uint64 `json:"expired,omitempty"`
}

// Stats returns how many dead letters there are, and what bounds them.
func (d *DeadLetters) Stats(ctx context.Context) (DeadLetterStats, error) {
	st, err := d.stats(ctx, "dead letter stats")
	return DeadLetterStats{
		Count: st.Count, Oldest: st.Oldest, Max: st.Max, MaxAge: st.MaxAge, DropOldest: st.DropOldest,
		Dropped: st.Dropped, Expired: st.Expired,
	}, err
}

func (d *DeadLetters) stats(ctx context.Context, op string) (transport.DeadLetterStats, error) {
	if err := d.b.open(ctx, op, ""); err != nil {
		return transport.DeadLetterStats{}, err
	}
	ctx, cancel := d.step(ctx)
	defer cancel()
	st, err := d.b.tr.DeadLetters().Stats(ctx)
	return st, fromDeadLetters(op, "", err)
}

// check refuses what would not reach the transport.
func (d *DeadLetters) check(ctx context.Context, op, id string) error {
	if err := d.b.open(ctx, op, ""); err != nil {
		return err
	}
	ok := id != "" && len(id) <= maxDeadID
	for i := range len(id) {
		c := id[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-')
	}
	if !ok {
		return errorf(CodeInvalid, op, "", "%q is no id of a dead letter: they have 1 to %d characters of [A-Za-z0-9_-]", id, maxDeadID)
	}
	return nil
}

// step bounds one call of the transport.
func (d *DeadLetters) step(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d.b.cfg.PublishTimeout)
}

// fromDeadLetters is fromTransport for what a driver's dead letters return.
func fromDeadLetters(op, id string, err error) error {
	if errors.Is(err, transport.ErrNotFound) {
		return &Error{Code: CodeNotFound, Op: op, Message: ErrNoDeadLetter.Error() + ": " + id, cause: errors.Join(ErrNoDeadLetter, err)}
	}
	return fromTransport(op, "", "", err)
}
