package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

// story is what happens, and what is told of it.
type story struct {
	b     *bus.Bus
	mail  *mailServer
	began time.Time

	mu     sync.Mutex
	out    io.Writer
	orders int
	done   int            // runs that succeeded
	heard  map[string]int // orders, by the audit
	alarms int
	opened int // how often the breaker did
	closed bool
}

// tell tells what happens on a transport, which the bus closes.
func tell(ctx context.Context, tr transport.Transport, out io.Writer) error {
	s := &story{mail: newMailServer(), began: time.Now(), out: out, heard: map[string]int{}}
	b, err := bus.New(tr, bus.Config{
		Service:   "mailer",
		Observers: []bus.Observer{s.step},
		OnBreaker: s.breakerChanged,
	})
	if err != nil {
		return err
	}
	defer b.Close(context.WithoutCancel(ctx))
	s.b = b
	if err := s.listen(ctx); err != nil {
		return err
	}
	for _, chapter := range []func(context.Context) error{s.flaky, s.down, s.deadLetters, s.redrive} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	return s.sum(ctx)
}

// listen registers who hears of orders.
func (s *story) listen(ctx context.Context) error {
	// doc:listen
	_, err := bus.Subscribe(ctx, s.b, s.mail.sendMail, bus.WithName("send"), bus.WithConcurrency(2),
		bus.WithRetry(resilience.Retry{ // 200, 400 and 800 ms, then a dead letter
			MaxRetries: 3, Initial: 200 * time.Millisecond, Jitter: resilience.NoJitter,
		}),
		bus.WithBreaker(resilience.Breaker{ // 4 orders that fail pause the group
			FailureThreshold: 4, Window: 10 * time.Second, Recovery: 2 * time.Second, SuccessThreshold: 2,
		}))
	if err != nil {
		return err
	}
	_, err = bus.Subscribe(ctx, s.b, s.alarm, bus.WithGroup("alarms")) // for each dead letter
	if err != nil {
		return err
	}
	// doc:end
	_, err = bus.Subscribe(ctx, s.b, func(_ context.Context, e OrderShipped) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.heard[e.Order]++
		return nil
	}, bus.WithGroup("audit")) // a group of its own: what happens to the mail is no matter of its
	return err
}

func (s *story) flaky(ctx context.Context) error {
	s.say("-- the mail server is flaky: a retry mends it")
	s.mail.becomes(flaky)
	return s.ship(ctx, 3, "ada@example.com", func() bool { return s.done == s.orders })
}

func (s *story) down(ctx context.Context) error {
	s.say("-- it is down: the breaker opens, and no attempt is wasted")
	s.mail.becomes(down)
	if err := s.ship(ctx, 8, "bob@example.com", func() bool { return s.opened == 2 }); err != nil {
		return err
	}
	s.mail.becomes(fine)
	s.say("-- it is back: a probe finds out, and what has waited is sent")
	return s.until(ctx, func() bool { return s.closed && s.done == s.orders })
}

func (s *story) deadLetters(ctx context.Context) error {
	s.say("-- one address is wrong, and one is greylisted for too long: dead letters")
	s.mail.greylists(true)
	if err := s.ship(ctx, 1, "cleo@exmaple.com", nil); err != nil {
		return err
	}
	return s.ship(ctx, 1, "new.dora@example.com", func() bool { return s.alarms == 2 })
}

func (s *story) redrive(ctx context.Context) error {
	s.say("-- mended: they go back to the handler that failed, one of them edited")
	s.mail.greylists(false)
	dl := s.b.DeadLetters()
	for d, err := range dl.All(ctx, bus.DeadLetterQuery{}) {
		if err != nil {
			return err
		}
		e, err := bus.DeadLetterValue[OrderShipped](d)
		if err != nil {
			return err
		}
		s.say("%s is a dead letter of %s/%s, attempt %d: %s", e.Order, d.Group, d.Handler, d.Attempts, d.Err)
	}
	// doc:redrive
	mend := bus.WithEdit(func(e OrderShipped) (OrderShipped, error) {
		e.Email = strings.Replace(e.Email, "@exmaple.com", "@example.com", 1)
		return e, nil
	})
	report, err := dl.RedriveAll(ctx, bus.DeadLetterFilter{Name: "order.shipped", Group: "mailer"}, mend)
	if err != nil {
		return err
	}
	// doc:end
	for _, r := range report.Results {
		s.say("redriven to %s/%s, edited: %v", r.Group, r.Handler, r.Edited)
	}
	return s.until(ctx, func() bool { return s.done == s.orders })
}

// sum checks what has come of it all.
func (s *story) sum(ctx context.Context) error {
	left, err := s.b.DeadLetters().Count(ctx, bus.DeadLetterFilter{})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	orders, mails := s.mail.mailed()
	twice := 0
	for _, n := range s.heard {
		twice += n - 1
	}
	fmt.Fprintf(s.out, "%d orders: %d mailed, %d twice; %d heard by the audit, %d twice; %d alarms, %d dead letters left\n",
		s.orders, orders, mails-orders, len(s.heard), twice, s.alarms, left)
	if orders != s.orders || len(s.heard) != s.orders || left != 0 {
		return fmt.Errorf("something is missing")
	}
	return nil
}

// ship publishes n orders and waits until done says so.
func (s *story) ship(ctx context.Context, n int, email string, done func() bool) error {
	for range n {
		s.mu.Lock()
		s.orders++
		e := OrderShipped{Order: fmt.Sprintf("order-%02d", s.orders), Email: email}
		s.mu.Unlock()
		if err := bus.Publish(ctx, s.b, e); err != nil {
			return err
		}
	}
	if done == nil {
		return nil
	}
	return s.until(ctx, done)
}

func (s *story) until(ctx context.Context, done func() bool) error {
	for {
		s.mu.Lock()
		ok := done()
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// say tells one line, with the time since the beginning.
func (s *story) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line(format, args...)
}

func (s *story) line(format string, args ...any) {
	fmt.Fprintf(s.out, "%5.1fs  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}
