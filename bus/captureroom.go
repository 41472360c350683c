package bus

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// captureRoom keeps one half of the dead letters free for events. An event without a
// place for its dead letter holds up its group, or pushes out an older one; a command's
// caller has the error in any case.
type captureRoom struct {
	b *Bus

	mu    sync.Mutex
	until time.Time // for how long the answer below holds
	left  int       // how many may be added until it is asked for again
	full  error
}

const (
	// roomFor is how long an answer of the transport holds, and roomAdds for how many
	// dead letters.
	roomFor  = time.Second
	roomAdds = 64
)

// room says why there is no room for one more dead letter of a command.
func (r *captureRoom) room(ctx context.Context) error {
	r.mu.Lock()
	if time.Now().Before(r.until) && (r.full != nil || r.left > 0) {
		defer r.mu.Unlock()
		r.left--
		return r.full
	}
	r.mu.Unlock()
	st, err := r.b.tr.DeadLetters().Stats(ctx)
	if err != nil {
		return err
	}
	full := halfFull(st)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.until, r.left, r.full = time.Now().Add(roomFor), roomAdds, full
	if st.Max > 0 {
		r.left = min(r.left, st.Max/2-st.Count)
	}
	r.left--
	return full
}

// halfFull is an error of ErrBacklog if the dead letters are half full.
func halfFull(st transport.DeadLetterStats) error {
	switch {
	case st.Max > 0 && st.Count >= max(st.Max/2, 1):
		return fmt.Errorf("%d of %d dead letters: the other half is for events: %w", st.Count, st.Max, transport.ErrBacklog)
	case st.MaxBytes > 0 && st.Bytes >= st.MaxBytes/2:
		return fmt.Errorf("%d of %d bytes of dead letters: the other half is for events: %w", st.Bytes, st.MaxBytes, transport.ErrBacklog)
	}
	return nil
}
