package bus

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/transport"
)

// How long Execute waits for a reply before it asks again under the same key; how
// long after that, at first and at last; and how long after an answer that settles
// nothing. A process that is stopped or cut off is asked like any other, until its
// connection is seen to be dead: with half of the processes such, eight tries in the
// default timeout of 30 s reach none that lives once in 256 times.
const (
	firstAskAgain   = 5 * time.Second
	thenAskAgain    = time.Second
	lastAskAgain    = 30 * time.Second
	firstAfterReply = 50 * time.Millisecond
	lastAfterReply  = 2 * time.Second
)

// keyedReply is what one try of requestKeyed came to.
type keyedReply struct {
	m   *transport.Message
	err error
}

// requestKeyed is request for a command with an idempotency key. It asks again also
// where it does not know whether the command ran: after a reply that says so, and
// beside a try that has had none for a while, whose handler may be dead. The first
// reply that settles it counts. When ctx ends first, the error is that of the try
// that promises least.
func (b *Bus) requestKeyed(ctx context.Context, m *transport.Message) (*transport.Message, error) {
	trying, cancel := context.WithCancel(ctx)
	replies, quit := make(chan keyedReply), make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer close(quit)
	pending, tries := 0, 0
	began := time.Now()
	try := func() {
		one := *m // a try changes where it goes
		if tries++; tries > 1 {
			one.Header = m.Header.Clone()
			one.Header.Set(headerAsked, strconv.FormatInt(time.Since(began).Milliseconds(), 10))
			b.log.Debug("command asked for again under its idempotency key", "name", m.To.Name, "id", m.ID, "try", tries)
		}
		pending++
		wg.Go(func() {
			r, err := b.requestOnce(trying, &one)
			select {
			case replies <- keyedReply{r, err}:
			case <-quit:
			}
		})
	}
	try()
	beside, after := thenAskAgain, firstAfterReply
	again := time.NewTimer(firstAskAgain)
	defer again.Stop()
	var unsure, untaken *keyedReply
	for {
		select {
		case r := <-replies:
			pending--
			switch b.standing(m, r) {
			case replySettles:
				return r.m, r.err
			case replyUnsure:
				unsure = &r
			case replyNobody:
				if unsure == nil && pending == 0 {
					return r.m, r.err // whether or not anybody comes
				}
				fallthrough
			case replyUntaken:
				untaken = &r
			}
			if pending == 0 && ctx.Err() == nil {
				again.Reset(after/2 + rand.N(after))
				after = min(2*after, lastAfterReply)
			}
		case <-again.C:
			try()
			again.Reset(beside)
			beside = min(beside+beside/2, lastAskAgain)
		case <-ended(ctx, pending):
		}
		if pending == 0 && ctx.Err() != nil {
			if unsure != nil {
				return unsure.m, unsure.err
			}
			return untaken.m, untaken.err
		}
	}
}

// ended is ctx's Done while nothing else would tell of it: a try ends with ctx.
func ended(ctx context.Context, pending int) <-chan struct{} {
	if pending > 0 {
		return nil
	}
	return ctx.Done()
}

// What a reply says of a command with a key.
type replyStanding int

const (
	replySettles replyStanding = iota // it is the result, or an error for good
	replyUnsure                       // it may have run
	replyUntaken                      // it did not run there
	replyNobody                       // nobody handles it
)

func (b *Bus) standing(m *transport.Message, r keyedReply) replyStanding {
	err := r.err
	if err == nil {
		switch Code(r.m.Header.Get(headerError)) {
		case CodeUnknown, CodeBusy, CodeUnavailable:
			err = b.replyError(m, r.m)
		default:
			return replySettles
		}
	}
	var e *Error
	switch code := transportCode(err); {
	case errors.As(err, &e):
		switch {
		case e.Code == CodeUnknown:
			return replyUnsure
		case (e.Code == CodeBusy || e.Code == CodeUnavailable || e.Code == CodeCancelled) && e.Attempts == 0:
			return replyUntaken
		}
	case code == CodeNoHandler:
		return replyNobody
	case nothingRan(err):
		return replyUntaken
	case code == CodeUnknown, code == CodeTimeout, code == CodeCancelled, code == "":
		return replyUnsure
	}
	return replySettles
}
