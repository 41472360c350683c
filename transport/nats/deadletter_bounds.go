package nats

import (
	"context"
	"sync/atomic"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-bus/jitney/transport"
)

// deadBounds is what the driver knows of the limits of its dead letters.
type deadBounds struct {
	// refuses is set once the stream was seen to refuse new records when it is full.
	refuses atomic.Bool
	dropped atomic.Uint64
}

// Stats implements transport.DeadLetters. Dropped counts those of this transport's
// own Adds, and Expired is not known: the server drops what is too old without a
// word, so watch Oldest and MaxAge.
func (d *deadLetters) Stats(ctx context.Context) (transport.DeadLetterStats, error) {
	info, err := d.info(ctx, "count dead letters")
	if err != nil {
		return transport.DeadLetterStats{}, err
	}
	st := transport.DeadLetterStats{
		Count: int(info.State.Msgs), Last: info.State.LastSeq,
		Max: int(max(info.Config.MaxMsgs, 0)), MaxAge: info.Config.MaxAge,
		Bytes: info.State.Bytes, MaxBytes: uint64(max(info.Config.MaxBytes, 0)),
		DropOldest: info.Config.Discard == jetstream.DiscardOld,
		Dropped:    d.bounds.dropped.Load(),
	}
	if st.Count > 0 {
		st.Oldest = info.State.FirstTime
	}
	return st, nil
}

// info reads the stream's state from its leader.
func (d *deadLetters) info(ctx context.Context, doing string) (info *jetstream.StreamInfo, err error) {
	err = d.c.try(ctx, doing, func(ctx context.Context, js jetstream.JetStream) error {
		st, err := js.Stream(ctx, d.stream)
		if err == nil {
			info = st.CachedInfo()
		}
		return err
	})
	return info, err
}

// risk is the record that goes if one more is added.
type risk struct {
	before jetstream.StreamState
	oldest *jetstream.RawStreamMsg
}

// atRisk says which record a record of that size would take the place of; nil if
// that is none, or not known.
func (d *deadLetters) atRisk(ctx context.Context, size int) *risk {
	if d.bounds.refuses.Load() {
		return nil
	}
	info, err := d.info(ctx, "count dead letters")
	if err != nil {
		return nil // adding says what is wrong
	}
	cfg, state := info.Config, info.State
	if cfg.Discard != jetstream.DiscardOld {
		d.bounds.refuses.Store(true)
		return nil
	}
	full := cfg.MaxMsgs > 0 && state.Msgs >= uint64(cfg.MaxMsgs) || cfg.MaxBytes > 0 && state.Bytes+uint64(size) > uint64(cfg.MaxBytes)
	if !full || state.Msgs == 0 {
		return nil
	}
	r := &risk{before: state}
	err = d.c.try(ctx, "read the oldest dead letter", func(ctx context.Context, js jetstream.JetStream) (err error) {
		r.oldest, err = fromLeader(ctx, js, d.stream, msgRequest{Seq: state.FirstSeq})
		return err
	})
	if err != nil {
		return nil
	}
	return r
}

// tellDropped notices whether the record at risk is gone.
func (d *deadLetters) tellDropped(ctx context.Context, r *risk) {
	if r == nil {
		return
	}
	info, err := d.info(ctx, "count dead letters")
	if err != nil || info.State.FirstSeq <= r.oldest.Sequence {
		return
	}
	n := max(1, int64(r.before.Msgs)+1-int64(info.State.Msgs)) // more than one made room for a large one
	d.bounds.dropped.Add(uint64(n))
	dl := d.decode(r.oldest)
	d.log.ErrorContext(ctx, "dead letters full, dropped the oldest", "count", n, "id", dl.ID,
		"name", dl.Message.To.Name, "group", dl.Group, "stream", d.stream)
}
