package nats

import (
	"context"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-bus/jitney/transport"
)

// List implements transport.DeadLetters. A record that was removed a moment ago
// may still be in it.
func (d *deadLetters) List(ctx context.Context, q transport.DeadLetterQuery) ([]*transport.DeadLetter, error) {
	if q.Limit <= 0 {
		q.Limit = defaultPage
	}
	found, err := d.page(ctx, q)
	if err != nil {
		return nil, err
	}
	list := make([]*transport.DeadLetter, len(found))
	for i, m := range found {
		list[i] = d.decode(m)
	}
	return list, nil
}

func (d *deadLetters) page(ctx context.Context, q transport.DeadLetterQuery) ([]*jetstream.RawStreamMsg, error) {
	if !q.Newest {
		return d.read(ctx, q.After+1, 0, q.Limit)
	}
	info, err := d.info(ctx, "list dead letters")
	if err != nil {
		return nil, err
	}
	state := info.State
	// Streams are read forwards only. Read the window before the end, and then
	// ever larger ones where records were removed.
	end := state.LastSeq
	if q.After > 0 {
		end = min(end, q.After-1)
	}
	var found []*jetstream.RawStreamMsg
	for width := uint64(q.Limit); end >= state.FirstSeq && end > 0 && len(found) < q.Limit; width *= 2 {
		begin := max(state.FirstSeq, 1)
		if end > width {
			begin = max(begin, end-width+1)
		}
		window, err := d.readLast(ctx, begin, end, q.Limit-len(found))
		if err != nil {
			return nil, err
		}
		slices.Reverse(window)
		found = append(found, window...)
		end = begin - 1
	}
	return found, nil
}

// readLast returns the last n records between two sequences.
func (d *deadLetters) readLast(ctx context.Context, begin, end uint64, n int) ([]*jetstream.RawStreamMsg, error) {
	var last []*jetstream.RawStreamMsg
	for begin <= end {
		batch, err := d.read(ctx, begin, end, liveBatch)
		if err != nil {
			return nil, err
		}
		if len(batch) == 0 {
			break
		}
		last = append(last, batch...)
		last = slices.Delete(last, 0, max(len(last)-n, 0))
		begin = batch[len(batch)-1].Sequence + 1
	}
	return last, nil
}

// read returns up to n records from one sequence on, up to another if that is
// not 0.
func (d *deadLetters) read(ctx context.Context, begin, end uint64, n int) (found []*jetstream.RawStreamMsg, err error) {
	for len(found) < n {
		var batch []*jetstream.RawStreamMsg
		err = d.c.try(ctx, "list dead letters", func(ctx context.Context, js jetstream.JetStream) (err error) {
			batch, err = nextMessages(ctx, js, d.stream, d.names.below("dlq"), begin, min(n-len(found), liveBatch))
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, m := range batch {
			if end != 0 && m.Sequence > end {
				return found, nil
			}
			found = append(found, m)
			begin = m.Sequence + 1
		}
		if len(batch) == 0 {
			break
		}
	}
	return found, nil
}
