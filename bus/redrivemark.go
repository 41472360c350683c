package bus

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// A redrive publishes and then removes, and may die between the two. A mark in the
// transport's store, made before, makes it repeatable without a second copy: whoever
// repeats it sees how far it came, and the group that gets a copy writes down which
// one, so that it drops another.
//
// A mark is kept for as long as somebody may still find its dead letter, and for a
// while after that: a process that died after it stored the dead letter and before it
// settled the event stores it again.

// redriveMark says how far a redrive came.
type redriveMark struct {
	// Edit is a digest of the body that the redrive chose, "" for the one that failed.
	Edit string `json:"edit,omitempty"`
	// Stored: the copy is.
	Stored bool `json:"stored,omitempty"`
	// Removed: the dead letter is.
	Removed bool `json:"removed,omitempty"`
	// Doubt: it was published by more than one, perhaps longer apart than the
	// transport remembers, so that there may be two copies.
	Doubt bool `json:"doubt,omitempty"`
	// Taken is the copy that the group has got, "" for none yet.
	Taken string `json:"taken,omitempty"`

	fresh    bool // this redrive has made it
	revision uint64
}

const (
	redrivePrefix = "redrive."
	// markOpen is how long a mark is kept whose dead letter may still be there, or of
	// which there may be two copies; markDone is for one of which neither holds.
	markOpen = 90 * 24 * time.Hour
	markDone = time.Hour
	// markTries is how often a mark is written that others write too.
	markTries = 10
)

// isStored reports whether the copy is surely stored.
func (m *redriveMark) isStored() bool { return m.Stored || m.Taken != "" }

func (m *redriveMark) ttl() time.Duration {
	if m.Removed && !m.Doubt {
		return markDone
	}
	return markOpen
}

// redriveMarks keeps them.
type redriveMarks struct{ d *DeadLetters }

// begin makes the mark of a redrive, or takes up that of an earlier one.
func (s redriveMarks) begin(ctx context.Context, id, edit string, force bool) (*redriveMark, error) {
	m := &redriveMark{Edit: edit, fresh: true}
	err := s.create(ctx, id, m)
	if err == nil {
		return m, nil
	}
	if !errors.Is(err, transport.ErrExists) {
		return nil, fromTransport("", "", "", err)
	}
	m, err = s.change(ctx, id, func(m *redriveMark) bool {
		if m.isStored() || m.Doubt || m.Edit != edit && !force {
			return false
		}
		m.Doubt = true
		return true
	})
	switch {
	case err != nil:
		return nil, fromTransport("", "", "", err)
	case m.Edit != edit && !force && m.isStored():
		return nil, errorf(CodeConflict, "", "", "another redrive has stored a copy of it with another edit; discard it")
	case m.Edit != edit && !force:
		return nil, errorf(CodeConflict, "", "",
			"another redrive of it, with another edit, is under way or was interrupted: repeat that one, or use WithForce, and the handler gets the copy that was stored first")
	}
	return m, nil
}

// end writes down that the copy is stored, and whether the dead letter is removed. If
// it cannot, the mark is kept for longer than it has to be.
func (s redriveMarks) end(ctx context.Context, id string, removed bool) {
	_, err := s.change(ctx, id, func(m *redriveMark) bool {
		m.Stored, m.Removed = true, m.Removed || removed
		return true
	})
	if err != nil {
		s.d.b.log.Debug("mark of a redrive not written", "dead_letter", id, "err", err)
	}
}

// forget deletes the mark of a redrive that has stored nothing.
func (s redriveMarks) forget(ctx context.Context, id string, m *redriveMark) {
	ctx, cancel := s.d.step(ctx)
	defer cancel()
	if err := s.d.b.tr.Store().Delete(ctx, redrivePrefix+id, m.revision); err != nil {
		s.d.b.log.Debug("mark of a redrive not deleted", "dead_letter", id, "err", err)
	}
}

func (s redriveMarks) create(ctx context.Context, id string, m *redriveMark) (err error) {
	v, err := json.Marshal(m)
	if err != nil {
		return err
	}
	ctx, cancel := s.d.step(ctx)
	defer cancel()
	m.revision, err = s.d.b.tr.Store().Create(ctx, redrivePrefix+id, v, m.ttl())
	return err
}

// change applies f to a mark until nobody else has changed it meanwhile, and returns
// what it is then. f reports whether there is anything to write. A mark that is gone
// is made anew.
func (s redriveMarks) change(ctx context.Context, id string, f func(*redriveMark) bool) (*redriveMark, error) {
	ctx, cancel := s.d.step(ctx)
	defer cancel()
	return s.d.b.changeMark(ctx, id, true, f)
}

// changeMark is change; without anew a mark that is gone is nil.
func (b *Bus) changeMark(ctx context.Context, id string, anew bool, f func(*redriveMark) bool) (m *redriveMark, err error) {
	store, key := b.tr.Store(), redrivePrefix+id
	for range markTries {
		m = new(redriveMark)
		e, err := store.Get(ctx, key)
		gone := errors.Is(err, transport.ErrNotFound)
		switch {
		case gone && !anew:
			return nil, nil
		case err != nil && !gone:
			return nil, err
		case err == nil && json.Unmarshal(e.Value, m) != nil:
			m = new(redriveMark) // not ours; it says nothing
		}
		if !f(m) {
			return m, nil
		}
		v, err := json.Marshal(m)
		if err != nil {
			return nil, err
		}
		if gone {
			_, err = store.Create(ctx, key, v, m.ttl())
		} else {
			_, err = store.Update(ctx, key, v, e.Revision, m.ttl())
		}
		if !errors.Is(err, transport.ErrConflict) && !errors.Is(err, transport.ErrExists) {
			return m, err
		}
	}
	return nil, errorf(CodeUnavailable, "", "", "the mark %q is changed by others all the time", key)
}

// surplus settles a copy if the group has got another one of the same redrive. If the
// store does not tell, it is taken for the only one: better twice than never.
func (f *flight) surplus() bool {
	id := f.redriven()
	if id == "" || f.m.ID != redriveID(id) {
		return false // no redriven copy, or one made of it for a retry
	}
	which := f.m.Header.Get(headerCopy)
	b := f.r.b
	ctx, cancel := context.WithTimeout(context.WithoutCancel(f.r.s.work), buryTimeout)
	defer cancel()
	m, err := b.changeMark(ctx, id, false, func(m *redriveMark) bool {
		if m.Taken != "" {
			return false
		}
		m.Taken = which
		return true
	})
	if err != nil {
		b.log.Warn("redriven event not compared with the mark of its redrive; a second copy would be handled too",
			"name", f.r.key.name, "id", f.id, "group", f.r.key.group, "dead_letter", id, "err", err)
		return false
	}
	if m == nil || m.Taken == which {
		return false
	}
	b.log.Info("second copy of a redriven event dropped", "name", f.r.key.name, "id", f.id,
		"group", f.r.key.group, "dead_letter", id)
	f.settleAfter("ack", f.d.Ack)
	return true
}
