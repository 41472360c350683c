package natstest

import (
	"errors"
	"net"
	"sync"

	"github.com/nats-io/nats.go"
)

// Cable connects a client to a server, and can be cut.
type Cable struct {
	server nats.InProcessConnProvider

	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

// NewCable returns a whole cable to s, to be used in the server's place.
func NewCable(s nats.InProcessConnProvider) *Cable { return &Cable{server: s} }

// InProcessConn opens a connection, unless the cable is cut.
func (c *Cable) InProcessConn() (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return nil, errors.New("natstest: the cable is cut")
	}
	nc, err := c.server.InProcessConn()
	if err == nil {
		c.conns = append(c.conns, nc)
	}
	return nc, err
}

// Cut breaks the connections of the cable and lets none pass until Mend.
func (c *Cable) Cut() { c.sever(true) }

// Blink breaks the connections of the cable, which may be opened again at once.
func (c *Cable) Blink() { c.sever(false) }

func (c *Cable) sever(cut bool) {
	c.mu.Lock()
	conns := c.conns
	c.conns, c.cut = nil, cut
	c.mu.Unlock()
	for _, nc := range conns {
		nc.Close()
	}
}

// Mend lets connections pass again.
func (c *Cable) Mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = false
}
