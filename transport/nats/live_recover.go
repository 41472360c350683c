package nats

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// gap is what is missing of one subject: the events after one and up to the
// other.
type gap struct {
	subject   string
	after, to uint64
}

// hear takes an event off the wire.
func (r *liveReader) hear(m *nats.Msg) {
	seq, err1 := sequenceOf(m.Header, hdrSequence)
	last, err2 := sequenceOf(m.Header, hdrLastSequence)
	if err := errors.Join(err1, err2); err != nil || lastHeader(m.Header, hdrStream) != r.stream {
		r.log.Warn("ignored a message that is not from the stream", "subject", m.Subject, "err", err)
		return
	}
	// Both counts change before the first event after a loss arrives.
	if !r.dirty && (r.nc.Stats().Reconnects != r.resets || r.dropped() != r.drops) {
		r.dirty, r.retryAt = true, time.Time{}
	}
	if r.dirty || seq <= r.cur {
		return
	}
	subject := lastHeader(m.Header, hdrSubject)
	known := r.floor
	if s, ok := r.seen[subject]; ok {
		known = s
	}
	if last <= known {
		r.handOut(&jetstream.RawStreamMsg{Subject: subject, Sequence: seq, Header: m.Header, Data: m.Data})
		return
	}
	r.log.Warn("events were lost on the way and are read from the stream", "after", known, "to", last)
	if known < r.cur {
		r.gap = &gap{subject: subject, after: known, to: min(last, r.cur)}
	}
	r.dirty, r.retryAt = true, time.Time{}
}

// check asks the stream whether an event was lost without a sign.
func (r *liveReader) check() {
	before := r.cur
	switch r.recover(); {
	case r.dirty:
	case r.cur != before:
		r.log.Warn("events were lost on the way and were read from the stream", "after", before, "to", r.cur)
	default:
		r.silence = min(2*r.silence, liveSilenceMost)
	}
}

// recover brings the reader to the end of the stream. If it cannot, the reader
// is dirty, and run tries again.
func (r *liveReader) recover() {
	r.dirty = true
	err := r.relisten()
	if err == nil {
		err = r.catchUp()
	}
	r.heardAt = time.Now()
	if err == nil {
		r.dirty, r.retry = false, 0
		return
	}
	if r.life.Err() == nil && r.retry == 0 {
		r.log.Warn("cannot read missing events and goes on trying", "err", err)
	}
	r.retry = min(max(2*r.retry, pauseFirst), callLongest)
	r.retryAt = time.Now().Add(r.retry)
}

// call makes one call of the stream's API.
func (r *liveReader) call(f func(context.Context, jetstream.JetStream) error) error {
	return r.c.once(r.life, callLongest, f)
}

// relisten subscribes anew if the subscription ended, as it does with a
// connection that closed for good, and takes note of what was lost so far.
func (r *liveReader) relisten() error {
	return r.call(func(ctx context.Context, js jetstream.JetStream) error {
		if r.sub != nil && js.Conn() == r.nc && r.sub.IsValid() {
			r.resets, r.drops = r.nc.Stats().Reconnects, r.dropped()
			return nil
		}
		if r.sub != nil {
			r.unlisten()
		}
		return r.listen(ctx, js)
	})
}

func (r *liveReader) dropped() int {
	n, err := r.sub.Dropped()
	if err != nil {
		return -1 // the subscription ended, which is a loss too
	}
	return n
}

// catchUp reads from the stream what is missing, up to its last event.
func (r *liveReader) catchUp() error {
	if g := r.gap; g != nil {
		if err := r.read(g.subject, g.after, g.to); err != nil {
			return err
		}
		r.gap = nil
	}
	var last uint64
	err := r.call(func(ctx context.Context, js jetstream.JetStream) error {
		m, err := fromLeader(ctx, js, r.stream, msgRequest{LastFor: r.filter})
		if err == nil {
			last = m.Sequence
		}
		if err != nil && !isNoMessage(err) || last >= r.cur {
			return err
		}
		// The last event was removed, or the stream is another one, which begins
		// with 1 again and whose events are all new.
		st, err := js.Stream(ctx, r.stream)
		if err == nil && st.CachedInfo().State.LastSeq < r.cur {
			r.log.Warn("the stream was made anew")
			r.cur, r.floor = 0, 0
			clear(r.seen)
		}
		return err
	})
	if err != nil && !isNoMessage(err) {
		return err
	}
	if err := r.read(r.filter, r.cur, last); err != nil {
		return err
	}
	r.cur = max(r.cur, last) // what is not there was removed
	return nil
}

// read hands out the events of the stream after one sequence up to another.
func (r *liveReader) read(filter string, after, to uint64) error {
	for after < to {
		batch, err := r.batch(filter, after+1)
		if err != nil {
			return err
		}
		if len(batch) == 0 {
			return nil
		}
		for _, m := range batch {
			if m.Sequence > to {
				return nil
			}
			if !r.handOut(m) {
				return r.life.Err()
			}
			after = m.Sequence
			if g := r.gap; g != nil && g.subject == filter {
				g.after = after
			}
		}
	}
	return nil
}

// batch reads the next events. None is the leader's word.
func (r *liveReader) batch(filter string, from uint64) (batch []*jetstream.RawStreamMsg, err error) {
	err = r.call(func(ctx context.Context, js jetstream.JetStream) error {
		batch, err = nextMessages(ctx, js, r.stream, filter, from, liveBatch)
		return err
	})
	return batch, err
}

// handOut gives an event to Next, waiting until there is room. It reports false
// when the reader closes first.
func (r *liveReader) handOut(m *jetstream.RawStreamMsg) bool {
	if !r.deliver(m, 1) {
		return false
	}
	r.cur = max(r.cur, m.Sequence)
	if len(r.seen) >= liveSubjects {
		clear(r.seen)
		r.floor = r.cur
	}
	r.seen[m.Subject] = m.Sequence
	r.heardAt, r.silence = time.Now(), liveSilence
	return true
}
