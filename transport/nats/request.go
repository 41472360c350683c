package nats

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jitney-bus/jitney/transport"
)

// noHandlerWait is the wait after the n-th try of a request that nobody serves,
// and whether there is one: in a cluster the word of a new handler takes a moment
// to spread. A lone server is asked once more, for it may have leaf nodes.
func noHandlerWait(try int, clustered bool) (time.Duration, bool) {
	switch {
	case try == 0:
		return 20 * time.Millisecond, true
	case try == 1 && clustered:
		return 50 * time.Millisecond, true
	case try == 2 && clustered:
		return 100 * time.Millisecond, true
	}
	return 0, false
}

// The values of hdrStatus, with which a server says that it ran nothing.
const (
	statusBusy     = "busy"
	statusStopping = "stopping"
)

// Request implements transport.Transport. Nothing is sent while the connection
// is down, so that no request runs after its caller gave up.
func (t *Transport) Request(ctx context.Context, m *transport.Message) (*transport.Message, error) {
	if err := t.usable(ctx); err != nil {
		return nil, err
	}
	if m == nil {
		return nil, fmt.Errorf("request: %w message: it is nil", transport.ErrInvalid)
	}
	reply, err := t.request(ctx, m)
	if err != nil {
		return nil, mapError(fmt.Sprintf("request %q", m.To.Name), err)
	}
	return reply, nil
}

func (t *Transport) request(ctx context.Context, m *transport.Message) (*transport.Message, error) {
	if m.To.Group != "" {
		return nil, fmt.Errorf("%w address: a command has no group", transport.ErrInvalid)
	}
	if m.Value != nil {
		return nil, fmt.Errorf("%w message: it has a Value, and only bodies are carried", transport.ErrInvalid)
	}
	if limit := t.maxBody(); len(m.Body) > limit {
		return nil, &transport.SizeError{Size: len(m.Body), Limit: limit}
	}
	subject, err := t.names.command(m.To)
	if err != nil {
		return nil, err
	}
	_, token, _, _ := t.names.split(subject)
	q := question{subject: subject, data: m.Body}
	short := inReply(m.ID)
	if short {
		q.id = m.ID
	}
	if q.header, err = encode(m, token, !short); err != nil {
		return nil, err
	}
	deadline, limited := ctx.Deadline()
	for try := 0; ; try++ {
		if limited {
			q.left = max(time.Until(deadline), 1)
		}
		in, sent, err := t.win.ask(ctx, q)
		switch {
		case err != nil && !sent && !isTransport(err):
			return nil, fmt.Errorf("not sent: %w: %w", transport.ErrUnavailable, err)
		case err != nil:
			return nil, err
		case !noResponders(in):
			return answered(in)
		}
		wait, again := noHandlerWait(try, t.link.conn().ConnectedClusterName() != "")
		if !again || m.To.Session != "" { // the bus knows from the store whether to ask a session again
			return nil, transport.ErrNoHandler
		}
		if !sleep(ctx, wait) {
			// Nothing ran, but the caller is gone; say what is known.
			return nil, fmt.Errorf("%w: %w", transport.ErrNoHandler, ctx.Err())
		}
	}
}

// answered turns the reply of a server into a message or into its refusal.
func answered(in *nats.Msg) (*transport.Message, error) {
	if len(in.Header) > 0 {
		if s := in.Header[hdrStatus]; len(s) == 1 {
			switch s[0] {
			case statusBusy:
				return nil, transport.ErrBusy
			case statusStopping:
				return nil, transport.ErrStopping
			}
		}
	}
	m := decodeReply(headersOf(in), in.Data)
	if m.Malformed != nil {
		// Something answered; what it did is not known.
		return nil, fmt.Errorf("%w, for the reply cannot be read: %w", transport.ErrUnknown, m.Malformed)
	}
	return m, nil
}
