package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-bus/jitney/transport"
)

// How long one try of a call may take, and what lies between two. A request to
// the JetStream API can vanish while the cluster elects, so no call waits for
// its caller's deadline alone.
const (
	callFirst    = 500 * time.Millisecond
	callLongest  = 2 * time.Second
	pauseFirst   = 20 * time.Millisecond
	pauseLongest = 500 * time.Millisecond
)

// errInFlight is a write that is refused for another one that is not stored yet.
var errInFlight = errors.New("another write is in flight")

// caller makes calls that are safe to repeat, until they succeed or are refused
// for good. It serves the store, the dead letters and the private readers.
type caller struct {
	js func() jetstream.JetStream // of the connection that is current
	// deny tells which subjects the server refuses, until remove is called; nil:
	// nobody knows.
	deny func(func(subject string, err error)) (remove func())
	life context.Context // ends when the transport closes
	end  context.CancelFunc
	wg   sync.WaitGroup // of what runs for as long as the transport
}

// newCaller returns a caller that gets the connection that is current from js.
func newCaller(js func() jetstream.JetStream) *caller {
	life, end := context.WithCancel(context.Background())
	return &caller{js: js, life: life, end: end}
}

// close ends the calls in progress and the watches, which then return ErrClosed,
// and waits for their goroutines. It comes before the connection closes.
func (c *caller) close() {
	c.end()
	c.wg.Wait()
}

// try runs f until it succeeds, fails for good or ctx ends. Each run has a ctx
// with a deadline of its own.
func (c *caller) try(ctx context.Context, doing string, f func(context.Context, jetstream.JetStream) error) error {
	limit, pause := callFirst, pauseFirst
	var last error
	for {
		switch {
		case c.life.Err() != nil:
			return fmt.Errorf("%s: %w", doing, transport.ErrClosed)
		case ctx.Err() != nil && (last == nil || errors.Is(ctx.Err(), context.Canceled)):
			return fmt.Errorf("%s: %w", doing, ctx.Err())
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w: %w; last try: %w", doing, transport.ErrUnavailable, ctx.Err(), last)
		}
		err := c.once(ctx, limit, f)
		if err == nil {
			return nil
		}
		if !isPassing(err) && c.life.Err() == nil && ctx.Err() == nil {
			return mapError(doing, err)
		}
		last = err
		c.pause(ctx, pause)
		limit, pause = min(2*limit, callLongest), min(2*pause, pauseLongest)
	}
}

// pause waits for d, or until ctx or the transport ends.
func (c *caller) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-c.life.Done():
	}
}

// once runs f under a deadline that is never later than limit. It ends early if
// the server refuses to take what f sends, which f itself is not told.
func (c *caller) once(ctx context.Context, limit time.Duration, f func(context.Context, jetstream.JetStream) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	if c.deny == nil {
		return f(ctx, c.js())
	}
	var sent sentSubjects
	var refused atomic.Pointer[error]
	defer c.deny(func(subject string, err error) {
		if sent.has(subject) {
			refused.Store(&err)
			cancel()
		}
	})()
	js, err := noting(c.js(), &sent)
	if err != nil {
		return err
	}
	before := js.Conn().LastError()
	if err = f(ctx, js); err == nil {
		return nil
	}
	if r := refused.Load(); r != nil {
		return fmt.Errorf("%w: %w", transport.ErrPermission, *r)
	}
	// A caller's connection tells its own handler only.
	if subject, publish, ok := newDenial(before, js.Conn().LastError()); ok && publish && sent.has(subject) {
		return fmt.Errorf("%w: %w", transport.ErrPermission, js.Conn().LastError())
	}
	return err
}

// isPassing says whether err may go away by itself: the broker was not reached,
// did not answer in time, has no leader, or lacks a stream that is about to be
// made again.
func isPassing(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return passes(int(api.ErrorCode), api.Code) || api.ErrorCode == jetstream.JSErrCodeStreamNotFound
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errInFlight) || isDown(err)
}

// wasSent says whether a publish that failed with err may have been stored.
func wasSent(err error) bool {
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api):
		return int(api.ErrorCode) == codeDuplicateInFlight
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse),
		errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionReconnecting):
		return false
	}
	return isPassing(err) || errors.Is(err, context.Canceled)
}

// isWrongSequence says whether a publish was refused because the subject's last
// sequence is another than expected. Replicated streams have a code of their own
// for it.
func isWrongSequence(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// apiPrefix returns what the subjects of the JetStream API begin with.
func apiPrefix(js jetstream.JetStream) string {
	switch o := js.Options(); {
	case o.APIPrefix != "" && o.APIPrefix[len(o.APIPrefix)-1] != '.':
		return o.APIPrefix + "."
	case o.APIPrefix != "":
		return o.APIPrefix
	case o.Domain != "":
		return "$JS." + o.Domain + ".API."
	}
	return jetstream.DefaultAPIPrefix
}
