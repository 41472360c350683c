package bus

import (
	"sync"

	"github.com/jitney-bus/jitney/transport"
)

// spares are messages to be given to the transport for one call. It keeps no
// reference to them, so that they are used again: each is 264 bytes, and a command
// needs two that nobody sees.
type spares struct{ pool sync.Pool }

// message returns an empty message.
func (s *spares) message() *transport.Message {
	if m, ok := s.pool.Get().(*transport.Message); ok {
		return m
	}
	return new(transport.Message)
}

// done takes back a message that nobody holds any more.
func (s *spares) done(m *transport.Message) {
	*m = transport.Message{}
	s.pool.Put(m)
}
