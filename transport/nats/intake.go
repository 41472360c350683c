package nats

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
)

// intake is a subscription that ends with what the server had sent to it.
type intake struct {
	nc      *nats.Conn
	sub     *nats.Subscription
	drained chan struct{} // closed when sub has ended and its last message was received
}

func newIntake(nc *nats.Conn, sub *nats.Subscription) intake {
	in := intake{nc: nc, sub: sub, drained: make(chan struct{})}
	sub.SetClosedHandler(func(string) { close(in.drained) })
	return in
}

// drain ends the subscription and waits until what was sent before the server
// heard of it is received. It reports false if the connection is down, or went
// down meanwhile, and what was sent with it.
//
// The client must not find the subscription half drained when it connects again: it
// would make it anew at the server, for good and for nobody, and what the server
// then gives to this member of a queue group would be lost. Without a connection
// nothing is to come, and the subscription just ends.
func (in intake) drain(ctx context.Context) (connected bool, err error) {
	down := in.nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer in.nc.RemoveStatusListener(down)
	connected = in.nc.IsConnected() && in.sub.Drain() == nil
	if connected {
		select {
		case <-in.drained:
			return true, nil
		case <-ctx.Done():
			return true, fmt.Errorf("drain: %w", ctx.Err())
		case <-down:
		}
	}
	if in.sub.Unsubscribe() != nil {
		return false, nil // the connection is closed for good, or it had ended already
	}
	select {
	case <-in.drained:
		return false, nil
	case <-ctx.Done():
		return false, fmt.Errorf("drain: %w", ctx.Err())
	}
}
