package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/bus"
)

// OrderShipped is the event that all of this is about.
type OrderShipped struct{ Order, Email string }

// MessageName implements bus.Named.
func (OrderShipped) MessageName() string { return "order.shipped" }

// weather is how the mail server is today.
type weather int

const (
	fine weather = iota
	flaky
	down
)

var (
	errReset     = errors.New("connection reset")
	errRefused   = errors.New("connection refused")
	errGreylist  = errors.New("greylisted, try again later")
	errNoMailbox = errors.New("no such mailbox")
)

// mailServer is the dependency. What it does is up to the story.
type mailServer struct {
	mu      sync.Mutex
	weather weather
	grey    bool            // new addresses have to wait
	tried   map[string]bool // orders, while it is flaky
	sent    map[string]int  // orders
}

func newMailServer() *mailServer {
	return &mailServer{tried: map[string]bool{}, sent: map[string]int{}}
}

func (s *mailServer) becomes(w weather) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.weather = w
}

func (s *mailServer) greylists(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grey = on
}

// mailed counts the orders whose mail was sent, and the mails.
func (s *mailServer) mailed() (orders, mails int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.sent {
		mails += n
	}
	return len(s.sent), mails
}

func (s *mailServer) send(ctx context.Context, e OrderShipped) error {
	select {
	case <-time.After(20 * time.Millisecond):
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.weather == down:
		return errRefused
	case s.weather == flaky && !s.tried[e.Order]:
		s.tried[e.Order] = true
		return errReset
	case strings.HasSuffix(e.Email, "@exmaple.com"):
		return errNoMailbox
	case s.grey && strings.HasPrefix(e.Email, "new."):
		return errGreylist
	}
	s.sent[e.Order]++
	return nil
}

// sendMail is the handler. What it returns decides what becomes of the event.
func (s *mailServer) sendMail(ctx context.Context, e OrderShipped) error {
	err := s.send(ctx, e)
	if errors.Is(err, errNoMailbox) {
		return bus.Permanent(err) // no retry will help
	}
	return err
}
