//go:build unix

package process

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// proxy stands between clients and one server, and can do what a network does.
type proxy struct {
	l  net.Listener
	to string
	wg sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	wake   *sync.Cond
	mute   bool          // nothing gets through, and no connection ends: half open
	refuse bool          // new connections are closed
	delay  time.Duration // of each piece
	closed bool
}

func startProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{l: l, to: to, conns: map[net.Conn]struct{}{}}
	p.wake = sync.NewCond(&p.mu)
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.l.Close()
		p.set(false, false, 0)
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.l.Addr().String() }

// set changes what the network does from now on.
func (p *proxy) set(mute, refuse bool, delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mute, p.refuse, p.delay = mute, refuse, delay
	p.wake.Broadcast()
}

// count is how many connections it has, of both its sides.
func (p *proxy) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// cut ends every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
	p.wake.Broadcast()
}

func (p *proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		if !p.track(c) {
			c.Close()
			continue
		}
		s, err := net.DialTimeout("tcp", p.to, 2*time.Second)
		if err != nil || !p.track(s) {
			p.drop(c)
			if err == nil {
				s.Close()
			}
			continue
		}
		p.wg.Go(func() { p.pipe(c, s) })
		p.wg.Go(func() { p.pipe(s, c) })
	}
}

func (p *proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse || p.closed {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	c.Close()
}

func (p *proxy) pipe(from, to net.Conn) {
	defer p.drop(from)
	defer p.drop(to)
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if !p.pass() {
			return
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			_ = err == io.EOF
			return
		}
	}
}

// pass waits for as long as the network takes.
func (p *proxy) pass() bool {
	p.mu.Lock()
	for p.mute && !p.closed {
		p.wake.Wait()
	}
	delay, closed := p.delay, p.closed
	p.mu.Unlock()
	if delay > 0 {
		time.Sleep(delay)
	}
	return !closed
}
