package nats

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-bus/jitney/transport"
)

// hear takes an event off the wire.
func (r *liveReader) hear(m *nats.Msg) {
	seq, err1 := sequenceOf(m.Header, hdrSequence)
	last, err2 := sequenceOf(m.Header, hdrLastSequence)
	if err := errors.Join(err1, err2); err != nil || lastHeader(m.Header, hdrStream) != r.stream {
		r.log.Warn("ignored a message that is not from the stream", "subject", m.Subject, "err", err)
		return
	}
	if !isWhole(m) { // its publisher may have written all of this
		r.soil()
		return
	}
	// Both counts change before the first event after a loss arrives.
	if !r.dirty && (r.nc.Stats().Reconnects != r.resets || r.dropped() != r.drops) {
		r.soil()
	}
	if r.dirty || seq <= r.cur {
		return
	}
	subject := lastHeader(m.Header, hdrSubject)
	if known := max(r.sure, r.seen[subject]); last > known {
		r.log.Warn("events were lost on the way and are read from the stream", "after", known, "to", last)
		r.gap = true
		r.soil()
		return
	}
	if r.deliver(&jetstream.RawStreamMsg{Subject: subject, Sequence: seq, Header: m.Header, Data: m.Data}, 1) {
		r.cur = seq
		r.heard = append(r.heard, seq)
		r.seen[subject] = seq
		r.heardAt, r.silence = time.Now(), liveSilence
	}
}

// soil makes run bring the reader to the end of the stream, now.
func (r *liveReader) soil() { r.dirty, r.retryAt = true, time.Time{} }

// check asks the stream whether an event was lost without a sign.
func (r *liveReader) check() {
	read := r.read
	if r.recover(); r.read == read && !r.dirty {
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
	r.behind.Store(err != nil && r.life.Err() == nil)
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
	last, err := r.last()
	if err != nil {
		return err
	}
	if len(r.heard) > 0 && !r.gap {
		switch whole, err := r.heardAll(); {
		case err != nil:
			return err
		case whole:
			r.makeSure(r.cur)
		case len(r.begun) == 0 && !r.leader:
			r.log.Warn("events were lost on the way and are read from the stream", "after", r.sure, "to", r.cur)
		}
	}
	if err := r.readTo(last); err != nil {
		return err
	}
	r.makeSure(max(r.cur, last)) // what is not there was removed
	clear(r.seen)
	r.gap = false
	r.reachCatchUps(true)
	return nil
}

// last returns the sequence of the last event that is stored.
func (r *liveReader) last() (last uint64, err error) {
	err = r.call(func(ctx context.Context, js jetstream.JetStream) error {
		m, err := fromLeader(ctx, js, r.stream, msgRequest{LastFor: r.filter})
		if err == nil {
			last = m.Sequence
		}
		if err != nil && !isNoMessage(err) {
			return err
		}
		if last >= r.cur {
			return nil
		}
		// The last event was removed, or the stream is another one, which begins
		// with 1 again and whose events are all new.
		st, err := js.Stream(ctx, r.stream)
		if err == nil && st.CachedInfo().State.LastSeq < r.cur {
			r.log.Warn("the stream was made anew")
			r.base += r.cur
			r.cur, r.sure, r.heard = 0, 0, nil
			clear(r.seen)
		}
		return err
	})
	return last, err
}

// heardAll says whether all events after sure and up to cur were heard. It counts
// those that are stored. Where events keep being stored while it counts, or a
// replica lags, a loss of fewer than these would not show; it counts a few times
// before it lets that pass. For those in CatchUp that is not enough: they have all
// of them read.
func (r *liveReader) heardAll() (whole bool, err error) {
	if r.chain || len(r.begun) > 0 || r.leader {
		return r.chain, nil
	}
	heard := uint64(len(r.heard))
	err = r.call(func(ctx context.Context, js jetstream.JetStream) error {
		before, err := r.countAfter(ctx, js, r.cur)
		for range countTries {
			if err != nil {
				break
			}
			var all, after uint64
			if all, err = r.countAfter(ctx, js, r.sure); err != nil {
				break
			}
			if after, err = r.countAfter(ctx, js, r.cur); err != nil {
				break
			}
			whole = all-after <= heard && heard <= all-before
			if before == after {
				return nil
			}
			before = after
		}
		if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, errMalformedAnswer) {
			whole = false // direct reads are not allowed or cannot be read, and the leader does not count
			return nil
		}
		return err
	})
	return whole, r.allowed(err)
}

// allowed takes note of a refusal of what replicas are asked, which is no error:
// permission to ask the leader is enough.
func (r *liveReader) allowed(err error) error {
	if r.leader || !errors.Is(err, transport.ErrPermission) {
		return err
	}
	r.leader = true
	return nil
}

// countAfter returns how many events are stored after a sequence.
func (r *liveReader) countAfter(ctx context.Context, js jetstream.JetStream, seq uint64) (uint64, error) {
	_, count, err := fromReplica(ctx, js, r.stream, msgRequest{NextFor: r.filter, Seq: seq + 1, Batch: 1})
	return count, err
}

// readTo hands out the events of the stream after sure and up to a sequence, but
// for those that were heard.
func (r *liveReader) readTo(last uint64) error {
	for r.sure < last {
		var batch []*jetstream.RawStreamMsg
		leader := r.leader
		err := r.allowed(r.call(func(ctx context.Context, js jetstream.JetStream) (err error) {
			if leader {
				batch, err = nextFromLeader(ctx, js, r.stream, r.filter, r.sure+1)
			} else {
				batch, err = nextMessages(ctx, js, r.stream, r.filter, r.sure+1, liveBatch)
			}
			return err
		}))
		if leader != r.leader {
			continue // it has just been refused, and the leader is asked
		}
		if err != nil || len(batch) == 0 {
			return err
		}
		for _, m := range batch {
			if m.Sequence > last {
				return nil
			}
			if _, heard := slices.BinarySearch(r.heard, m.Sequence); !heard {
				if !r.deliver(m, 1) {
					return r.life.Err()
				}
				r.read++
				r.silence = liveSilence
			}
			r.makeSure(m.Sequence)
		}
	}
	return nil
}

// makeSure says that everything up to seq was handed out.
func (r *liveReader) makeSure(seq uint64) {
	r.sure, r.cur = seq, max(r.cur, seq)
	i, found := slices.BinarySearch(r.heard, seq)
	if found {
		i++
	}
	if r.heard = r.heard[i:]; len(r.heard) == 0 {
		r.heard = nil
	}
	r.reachCatchUps(false)
}
