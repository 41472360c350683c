package nats

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-bus/jitney/transport"
)

const (
	// What may wait between the connection and the reader, beyond Prefetch; more
	// is read from the stream when the reader gets there.
	livePendingMsgs  = 8192
	livePendingBytes = 4 << 20
	// liveHeard is how many events may be heard before the stream is asked whether
	// these were all.
	liveHeard = 1 << 14
	// countTries is how often events are counted until none is stored meanwhile.
	countTries = 5
	// liveSilence is after how long without events the reader asks the stream
	// whether it missed one; while it misses none it asks less often, down to
	// each liveSilenceMost.
	liveSilence     = 5 * time.Second
	liveSilenceMost = 40 * time.Second
	// liveBatch and liveBatchBytes bound what is read from the stream at once.
	liveBatch      = 512
	liveBatchBytes = 1 << 20
	// liveWaiting is how many naks of one reader may wait.
	liveWaiting = 1000
)

// liveReader is a private reader: it hears the events of a name, of one session
// or of all, as the stream republishes them, and has no consumer on the server.
//
// Republished events are core messages and may be lost: with the connection,
// behind a reader that is too slow, or between two servers of a cluster. One
// goroutine hands events out in the order of the stream and reads what is missing
// from it. It knows of a loss by the connection's count of reconnects and the
// subscription's count of drops, which it compares with each event; by the
// sequence that each event names as its predecessor's on the subject; and, after
// silence, after many events and when somebody waits in CatchUp, by asking the
// stream for its last event and for the number of events. Only a loss that is found by that number, of one session
// among others, puts events out of the order of the stream, never within a
// session.
type liveReader struct {
	c      *caller
	names  names
	log    *slog.Logger
	stream string
	filter string // the events in the stream
	live   string // the same events, republished
	chain  bool   // they have one subject, so that each names the one before
	forget func() // undoes what opening left with the transport

	life context.Context // ends with Close or with the transport
	end  context.CancelFunc
	done chan struct{} // closed when run has returned
	in   chan *nats.Msg
	out  chan *liveDelivery
	kick chan struct{} // holds a token while something else than an event needs a look

	behind atomic.Bool // it cannot read what it has missed

	mu        sync.Mutex
	again     []waiting                  // naks and releases, by time
	unsettled map[*liveDelivery]struct{} // queued for Next, or handed out
	newest    uint64                     // the highest place that was in unsettled
	disturbed bool                       // the connection came back or is another one
	asked     []*liveCatchUp             // run has yet to see whether it missed an event
	catching  []*liveCatchUp             // only Next and settlements are to come

	// Of run alone.
	sub     *nats.Subscription
	nc      *nats.Conn
	resets  uint64            // reconnects of nc that are dealt with
	drops   int               // drops of sub that are dealt with
	begun   []*liveCatchUp    // taken from asked
	base    uint64            // the place before the stream's first
	cur     uint64            // the last sequence that was handed out
	sure    uint64            // the sequence up to which none is missing
	heard   []uint64          // those above sure that were handed out
	seen    map[string]uint64 // the last sequence of each subject in heard
	read    uint64            // how many events had to be read from the stream
	heardAt time.Time         // when the last event came, or the stream was asked
	silence time.Duration     // after how long the stream is asked again
	dirty   bool              // events after cur may be missing, and those that come are not handed out
	gap     bool              // events after sure are missing
	leader  bool              // only it is asked: the server refuses to have replicas read
	retry   time.Duration     // the last pause between two tries to get clean
	retryAt time.Time
}

// newLiveReader opens a private reader. It hears every event that is stored after
// it returned.
func newLiveReader(ctx context.Context, t *Transport, s transport.Subscription) (transport.Source[transport.Delivery], error) {
	to := transport.Address{Session: s.Session, Name: s.Name}
	live, err := t.names.live(to)
	if err != nil {
		return nil, err
	}
	filter := t.names.everyScope(s.Name)
	if s.Session != "" {
		if filter, err = t.names.event(to); err != nil {
			return nil, err
		}
	}
	if s.Prefetch < 0 {
		return nil, fmt.Errorf("%w Prefetch %d: it must not be negative", transport.ErrInvalid, s.Prefetch)
	}
	if s.Prefetch == 0 {
		s.Prefetch = defaultPrefetch
	}
	r := &liveReader{
		c: t.calls, names: t.names, log: t.log.With("name", s.Name), stream: t.names.events(),
		filter: filter, live: live, chain: s.Session != "",
		done: make(chan struct{}), in: make(chan *nats.Msg), out: make(chan *liveDelivery, s.Prefetch), kick: make(chan struct{}, 1),
		unsettled: map[*liveDelivery]struct{}{}, seen: map[string]uint64{}, silence: liveSilence,
	}
	r.life, r.end = context.WithCancel(t.calls.life)
	if err := r.open(ctx); err != nil {
		r.end()
		return nil, err
	}
	remove := t.link.onEvent(func(linkEvent) { r.disturb() })
	r.forget = func() { remove(); t.disown(r) }
	r.c.wg.Go(r.run)
	return r, nil
}

// open subscribes, and takes the stream's last event for the one before the
// first. What is stored meanwhile may or may not be heard.
func (r *liveReader) open(ctx context.Context) error {
	return r.c.try(ctx, "listen to "+r.live, func(ctx context.Context, js jetstream.JetStream) error {
		if err := r.listen(ctx, js); err != nil {
			return err
		}
		last, err := fromLeader(ctx, js, r.stream, msgRequest{LastFor: r.filter})
		switch {
		case err == nil:
			r.cur = last.Sequence
		case !isNoMessage(err):
			r.unlisten()
			return err
		}
		r.sure, r.heardAt = r.cur, time.Now()
		return nil
	})
}

// listen subscribes on the connection of js and waits until the server knows.
func (r *liveReader) listen(ctx context.Context, js jetstream.JetStream) error {
	nc := js.Conn()
	r.resets = nc.Stats().Reconnects
	sub, err := nc.Subscribe(r.live, func(m *nats.Msg) {
		select {
		case r.in <- m:
		case <-r.life.Done():
		}
	})
	if err != nil {
		return err
	}
	r.nc, r.sub, r.drops = nc, sub, 0
	if err = sub.SetPendingLimits(livePendingMsgs, livePendingBytes); err == nil {
		err = nc.FlushWithContext(ctx)
	}
	if err != nil {
		r.unlisten()
	}
	return err
}

func (r *liveReader) unlisten() {
	_ = r.sub.Unsubscribe() // fails only on a connection that is gone
	r.sub = nil
}

// Next implements transport.Source.
func (r *liveReader) Next(ctx context.Context) (transport.Delivery, error) {
	if r.life.Err() != nil {
		return nil, transport.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case d := <-r.out:
		r.handOut(d)
		return d, nil
	case <-r.life.Done():
		return nil, transport.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close implements transport.Source. What was not handed out is forgotten, as
// are the naks that wait.
func (r *liveReader) Close(ctx context.Context) error {
	r.end()
	r.forget()
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close reader: %w", ctx.Err())
	}
}

// disturb tells run that the connection came back or is another one.
func (r *liveReader) disturb() {
	r.mu.Lock()
	r.disturbed = true
	r.mu.Unlock()
	r.wake()
}

func (r *liveReader) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// attend looks for what wake was called for.
func (r *liveReader) attend() {
	r.mu.Lock()
	disturbed := r.disturbed
	r.disturbed = false
	r.mu.Unlock()
	if disturbed {
		r.leader = false // on a new connection others may be allowed
		r.soil()
		r.silence = liveSilence
	}
	if r.beginCatchUps() {
		r.soil()
	}
}

// run hands out events until the reader closes.
func (r *liveReader) run() {
	defer close(r.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-r.life.Done():
			if r.sub != nil {
				r.unlisten()
			}
			return
		case m := <-r.in:
			if r.hear(m); !r.dirty && len(r.kick) == 0 && len(r.heard) < liveHeard {
				continue // the timer was set for an earlier event, which is early enough
			}
		case <-r.kick:
		case <-timer.C:
		}
		r.attend()
		switch {
		case r.dirty && !time.Now().Before(r.retryAt):
			r.recover()
		case !r.dirty && (time.Since(r.heardAt) >= r.silence || len(r.heard) >= liveHeard):
			r.check()
		}
		next := r.silence - time.Since(r.heardAt)
		if r.dirty {
			next = time.Until(r.retryAt)
		}
		timer.Reset(min(next, r.redeliver()))
	}
}
