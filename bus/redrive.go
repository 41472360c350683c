package bus

import (
	"context"
	"errors"
	"time"
)

// ErrNotRedrivable: the dead letter cannot be redriven, or not without WithForce.
// The error says why, and the dead letter stays.
var ErrNotRedrivable = errors.New("dead letter cannot be redriven")

// RedriveResult is what became of one dead letter.
type RedriveResult struct {
	// ID is the dead letter's, MessageID and Name the message's, and Group and Handler
	// are what it goes back to.
	ID, MessageID, Name, Group, Handler string
	// Generation is that of the copy: how often the message has been redriven with
	// it.
	Generation int
	// Repeated: an earlier redrive had stored the copy already, and was interrupted
	// before the dead letter was removed. It was not stored again. Of a command: it has
	// succeeded before, under its idempotency key.
	Repeated bool
	// Edited: the copy is not what had failed.
	Edited bool
	// DryRun: nothing was done.
	DryRun bool
	// Err is nil if the copy of an event is stored, or the command has succeeded, and
	// the dead letter removed. ErrNotRedrivable: refused. Otherwise there still is a dead
	// letter, and redriving again is safe, as far as a command is with WithForce.
	Err error
}

// RedriveReport sums up a RedriveAll.
type RedriveReport struct {
	// Redriven counts those that went back; with WithDryRun those that would.
	// Refused counts those of ErrNotRedrivable, Failed all others.
	Redriven, Refused, Failed int
	// Results has the first 1,000 results, in order. WithEach gets all of them.
	Results []RedriveResult
}

// maxRedriveResults bounds RedriveReport.Results.
const maxRedriveResults = 1000

func (r *RedriveReport) add(res RedriveResult) {
	switch {
	case res.Err == nil:
		r.Redriven++
	case errors.Is(res.Err, ErrNotRedrivable):
		r.Refused++
	default:
		r.Failed++
	}
	if len(r.Results) < maxRedriveResults {
		r.Results = append(r.Results, res)
	}
}

// Redrive sends a dead letter back to what failed: a copy of the message, with its
// id, headers and times, goes to the one handler of the one group that could not
// handle it, and the dead letter is removed once the copy is stored. Nobody else
// gets it. An event that could not be given to any handler goes to all of its group.
//
// The copy has all attempts of the handler's retry policy before it. If they fail it
// is a dead letter again, with another id, a Generation one higher and the failures
// before it in its History. The handler sees the Generation in its Meta. WithEdit and
// WithBodyEdit change the message on the way.
//
// Redriving twice, in two processes or again after a crash, lets the handler have one
// copy: the transport recognises a second one within its dedup window, and the group
// drops one that is stored later, by a mark that is kept for 90 days where a redrive
// was interrupted and for an hour otherwise. As with any event the handler may still
// run twice for its one copy, after a crash of its own.
//
// A command is executed again, by whoever handles it now and in its session, and its
// result discarded; Redrive waits for that until ctx's deadline, or for
// Config.ExecuteTimeout. It must have an idempotency key, so that it does not take
// effect twice, or WithForce. If it fails again its dead letter is replaced by another
// one, as that of an event is, which Error.DeadLetter names; if nothing ran, or nobody
// knows, it stays. Code, message and details of the failure are in the error.
//
// ErrNotRedrivable: the listener was private or of a session, and has ended; the
// message's session has ended; the message is malformed; the command has no
// idempotency key. CodeConflict: another redrive, with another edit, is under way or
// was interrupted.
func (d *DeadLetters) Redrive(ctx context.Context, id string, opts ...RedriveOption) (RedriveResult, error) {
	const op = "redrive dead letter"
	r, err := d.redriver(op, opts)
	if err != nil {
		return RedriveResult{ID: id, Err: err}, err
	}
	found, err := d.get(ctx, op, id)
	if err != nil {
		return RedriveResult{ID: id, Err: err}, err
	}
	res := r.one(ctx, d.b.deadLetter(found))
	r.tell(res)
	return res, res.Err
}

// RedriveAll redrives the dead letters that match f and were there when it began, the
// oldest first and one after the other, as Redrive does each: what fails again
// meanwhile is not redriven again. The zero filter redrives all of them. A command has
// Config.ExecuteTimeout.
//
// One that is refused or cannot be copied keeps no other back. An error of RedriveAll
// is that the transport cannot go on, or that ctx has ended: those redriven so far are
// in the report, and calling it again goes on with the rest.
func (d *DeadLetters) RedriveAll(ctx context.Context, f DeadLetterFilter, opts ...RedriveOption) (RedriveReport, error) {
	const op = "redrive dead letters"
	var report RedriveReport
	r, err := d.redriver(op, opts)
	if err != nil {
		return report, err
	}
	r.many = true
	var failed error
	err = d.scan(ctx, op, f, false, func(l DeadLetter) bool {
		if failed = r.pace(ctx, op); failed != nil {
			return false
		}
		// A listing may show what is gone by now.
		found, err := d.get(ctx, op, l.ID)
		if err != nil {
			if errors.Is(err, ErrNoDeadLetter) {
				return true
			}
			failed = err
			return false
		}
		res := r.one(ctx, d.b.deadLetter(found))
		report.add(res)
		r.tell(res)
		if l.Kind == KindEvent && lasting(res.Err) || ctx.Err() != nil {
			failed = res.Err
			return failed == nil
		}
		return r.o.limit == 0 || report.Redriven < r.o.limit
	})
	return report, errors.Join(failed, err)
}

// lasting reports whether an error of one event is of the transport, and so the next
// one's too.
func lasting(err error) bool {
	switch CodeOf(err) {
	case CodeUnavailable, CodeTimeout, CodeCancelled, CodeUnknown, CodeBacklog, CodePermission, CodeClosed:
		return !errors.Is(err, ErrNotRedrivable)
	default:
		return false
	}
}

// redriver is one call of Redrive or RedriveAll.
type redriver struct {
	d  *DeadLetters
	op string
	o  redriveOptions

	many bool      // it is a RedriveAll
	next time.Time // when the rate allows the next one

	open     map[string]bool // the sessions that are open, as of openAsOf
	openAsOf time.Time
}

func (d *DeadLetters) redriver(op string, opts []RedriveOption) (*redriver, error) {
	r := &redriver{d: d, op: op}
	for _, opt := range opts {
		opt.redrive(&r.o)
	}
	return r, invalidOptions(op, "", r.o.errs)
}

// pace waits until the rate allows one more.
func (r *redriver) pace(ctx context.Context, op string) error {
	if r.o.rate > 0 && !r.o.dryRun {
		now := time.Now()
		if wait := r.next.Sub(now); wait > 0 && !sleep(ctx, wait) {
			return fromTransport(op, "", "", ctx.Err())
		}
		r.next = later(r.next, now).Add(time.Duration(float64(time.Second) / r.o.rate))
	}
	return fromTransport(op, "", "", ctx.Err())
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// one redrives one dead letter.
func (r *redriver) one(ctx context.Context, d DeadLetter) RedriveResult {
	res := RedriveResult{
		ID: d.ID, MessageID: d.MessageID, Name: d.Name, Group: d.Group, Handler: d.Handler,
		Generation: d.Generation + 1, DryRun: r.o.dryRun,
	}
	if res.Err = r.refusal(ctx, d); res.Err != nil {
		return res
	}
	command := d.Kind == KindCommand
	m := r.copy(d)
	if command {
		m = r.commandCopy(d)
	}
	edit, err := r.edit(d, m)
	res.Edited = edit != ""
	if res.Err = err; err != nil || res.DryRun {
		return res
	}
	setRedriven(m.Header, d, res.Edited)
	if command {
		res.Repeated, res.Err = r.executeAgain(ctx, d, m)
	} else {
		res.Repeated, res.Err = r.send(ctx, d, m, edit)
	}
	return res
}

// tell hands a result on.
func (r *redriver) tell(res RedriveResult) {
	if !res.DryRun {
		log := r.d.b.log.With("dead_letter", res.ID, "name", res.Name, "id", res.MessageID,
			"group", res.Group, "handler", res.Handler, "generation", res.Generation)
		if res.Err == nil {
			log.Info("dead letter redriven", "repeated", res.Repeated, "edited", res.Edited)
		} else {
			log.Warn("dead letter not redriven", "err", res.Err)
		}
	}
	if r.o.each != nil {
		r.o.each(res)
	}
}
