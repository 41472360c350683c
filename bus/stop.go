package bus

import "errors"

// stopError keeps the listeners of lower priority from the event.
type stopError struct{ err error }

func (e *stopError) Error() string { return e.err.Error() }
func (e *stopError) Unwrap() error { return e.err }

// StopPropagation, returned by a listener, keeps the listeners of lower priority
// in its group (or session) from the event, as a check that comes first does. The
// listener has failed: it runs again by its retry policy, and the others wait with
// it. Once it has succeeded they run, in order, and their attempts are not used up
// by the wait. When its failure becomes a dead letter, at once with
//
//	return bus.StopPropagation(bus.Permanent(err))
//
// they do not run for this event at all, nor when the dead letter is sent back.
// Each failure decides anew: one without StopPropagation lets them run.
//
// Listeners of higher and of equal priority are not stopped. If the process dies
// during the wait the event comes again whole, and that delivery counts as an
// attempt for all of them. StopPropagation(nil) is nil. It composes with Permanent
// and RetryAfter, in any order; on a command it changes nothing.
func StopPropagation(err error) error {
	if err == nil {
		return nil
	}
	return &stopError{err}
}

// stops reports whether an error is of StopPropagation.
func stops(err error) bool {
	if err == nil {
		return false // without the allocation that errors.As needs
	}
	var s *stopError
	return errors.As(err, &s)
}

// stopped reports whether a listener among those that have just had their turn
// keeps the ones of lower priority from the event.
func stopped(runs []*run) bool {
	for _, run := range runs {
		if run.stops && run.verdict.fate != fateDone {
			return true
		}
	}
	return false
}

// spareStopped drops those that wait for a listener whose failure is a dead
// letter: they are not to run for this event. So does a private listener that was
// closed while they waited for it, and nobody else has.
func (f *flight) spareStopped() {
	var by *run
	for _, run := range f.runs {
		if run.stops && (run.verdict.fate == fateDead || f.hasEnded(run)) {
			by = run
		}
	}
	if by == nil {
		return
	}
	for _, run := range f.runs {
		if run.verdict.fate == fateWait {
			run.verdict.fate, run.err = fateDone, by.err
			f.observeRun(StageFiltered, run, 0)
		}
	}
}

// hasEnded reports whether a run is of a private listener that was closed: nobody
// else will make it.
func (f *flight) hasEnded(run *run) bool {
	return f.r.key.group == "" && run.verdict.fate == fateReturn && run.l.isGone()
}
