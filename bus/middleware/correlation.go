package middleware

import (
	"context"
	"fmt"
	"strings"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport"
)

// Correlation carries a value of the sender's context to the handler's, such as a
// request id, a tenant or a user, in the header key. Put it into Config.Sending and
// Config.Receiving of every service that takes part:
//
//	requestID := middleware.Correlation("Request-Id", requestIDFrom, withRequestID)
//	cfg := bus.Config{Sending: []bus.Middleware{requestID}, Receiving: []bus.Middleware{requestID}}
//
// On the sending side get reads the value from the context; "" sends no header,
// and a header of that key which WithHeader has set stays. On the receiving side
// set returns the handler's context with the value in it; without the header, and
// for a batch, it is not called. What a handler sends carries the value on.
//
// Keys and values follow the rules of bus.WithHeader; a value that breaks them is
// an error of bus.CodeInvalid, and nothing is sent. Whoever may send may claim any
// value. Correlation and causation ids of messages need none of this: the bus
// passes them on itself.
func Correlation(key string, get func(context.Context) string, set func(ctx context.Context, value string) context.Context) bus.Middleware {
	if err := checkKey(key); err != nil {
		return invalid("Correlation", "%v", err)
	}
	if get == nil || set == nil {
		return invalid("Correlation", "%s needs both functions, get and set", key)
	}
	return func(next bus.Func) bus.Func {
		return func(ctx context.Context, m *bus.Message) (any, error) {
			if !sending(m) {
				if value := m.Header.Get(key); value != "" {
					ctx = set(ctx, value)
				}
			} else if m.Header.Get(key) == "" {
				if value := get(ctx); value != "" {
					m.Header.Set(key, value)
				}
			}
			return next(ctx, m)
		}
	}
}

// checkKey tells at registration what the bus would say of every message.
func checkKey(key string) error {
	reserved := strings.EqualFold(key, "Status") || strings.EqualFold(key, "Description") || strings.EqualFold(key, "Content-Type")
	for _, prefix := range []string{"Nats-", transport.HeaderPrefix} {
		reserved = reserved || len(key) >= len(prefix) && strings.EqualFold(key[:len(prefix)], prefix)
	}
	switch {
	case reserved:
		return fmt.Errorf("header key %q is reserved", key)
	case key == "" || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' }):
		return fmt.Errorf("header key %q: use visible ASCII characters without a colon", key)
	}
	return nil
}
