//go:build unix

package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport/nats"
)

// Done is the event of all, Work the command.
type Done struct {
	ID, Publisher, Session string
	N                      int
}

func (Done) MessageName() string { return "cluster.done" }

type Work struct {
	bus.Command[string]
	ID string
}

func (Work) MessageName() string { return "cluster.work" }

var groups = []string{"ledger", "mailer"}

// chance is decided by what it is about alone: a number below n.
func chance(n uint32, about ...string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(strings.Join(about, " ")))
	return h.Sum32() % n
}

// poison is what no run can handle, keyed a command that has an idempotency key;
// owner is the command that a result belongs to.
func poison(id string) bool      { return strings.Contains(id, "poison") }
func keyed(id string) bool       { return strings.HasPrefix(id, "k-") }
func owner(result string) string { id, _, _ := strings.Cut(result, " by "); return id }

// actorSettings are those of a publisher or a handler.
type actorSettings struct {
	Name  string
	URLs  []string
	From  int // the first number of a publisher
	Count int
	Every time.Duration
}

func (s actorSettings) open(text []byte) (actorSettings, *bus.Bus, error) {
	if err := json.Unmarshal(text, &s); err != nil {
		return s, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tr, err := nats.Open(ctx, nats.Config{URL: strings.Join(s.URLs, ","), Name: s.Name, Replicas: 3, ConnectTimeout: time.Minute})
	if err != nil {
		return s, nil, err
	}
	b, err := bus.New(tr, bus.Config{
		Service: "cluster", AckWait: 5 * time.Second, CloseTimeout: 10 * time.Second, PublishTimeout: 20 * time.Second,
		// Crashes count as attempts, and there are many.
		Retry: resilience.Retry{MaxRetries: 9, Initial: 100 * time.Millisecond, Max: time.Second},
	})
	return s, b, err
}

// runHandler is a process that handles everything, until it is told to end.
func runHandler(text []byte) error {
	s, b, err := actorSettings{}.open(text)
	if err != nil {
		return err
	}
	ctx := context.Background()
	for _, g := range groups {
		_, err := bus.Subscribe(ctx, b, func(ctx context.Context, e Done) error { return handle(ctx, g, e) }, bus.WithGroup(g))
		if err != nil {
			return err
		}
	}
	err = bus.Handle(ctx, b, func(ctx context.Context, c Work) (string, error) {
		say(record{What: executing, ID: c.ID})
		time.Sleep(time.Duration(chance(30, "work", c.ID)) * time.Millisecond)
		say(record{What: executed, ID: c.ID})
		return fmt.Sprintf("%s by %s %d", c.ID, s.Name, time.Now().UnixNano()), nil
	})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	<-term
	return b.Close(ctx)
}

func handle(ctx context.Context, group string, e Done) error {
	m, _ := bus.MetaFrom(ctx)
	say(record{What: began, ID: e.ID, Group: group, Attempt: m.Attempt, Session: m.Session})
	time.Sleep(time.Duration(chance(8, group, e.ID)) * time.Millisecond)
	switch {
	case m.Session != e.Session:
		return bus.Permanent(fmt.Errorf("event of session %q came as of %q", e.Session, m.Session))
	case poison(e.ID):
		return bus.Permanent(errors.New("poison"))
	case chance(10, "fails", group, e.ID) == 0 && m.Attempt == 1:
		say(record{What: ended, ID: e.ID, Group: group, Text: "failed"})
		return errors.New("the first run fails")
	}
	say(record{What: ended, ID: e.ID, Group: group, Text: "done"})
	return nil
}

// runPublisher publishes events in order, each until it is stored, executes commands
// and uses a session, and ends.
func runPublisher(text []byte) error {
	s, b, err := actorSettings{}.open(text)
	if err != nil {
		return err
	}
	ctx := context.Background()
	session := "s-" + s.Name
	ss, err := openSession(ctx, b, session)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for n := s.From; n < s.From+s.Count; n++ {
		s.publish(ctx, b, n)
		if n%10 == 0 {
			e := Done{ID: fmt.Sprintf("e-%s-in-session-%d", s.Name, n), Publisher: session, Session: session, N: n}
			for !publishUntilStored(ctx, ss, e) { // a partition has outlasted the session
				if ss, err = openSession(ctx, b, session); err != nil {
					return err
				}
			}
		}
		s.command(ctx, b, n)
		time.Sleep(s.Every)
	}
	return b.Close(ctx)
}

// openSession opens a session with a listener, in a minute at the most.
func openSession(ctx context.Context, b *bus.Bus, id string) (*bus.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		s, err := b.Session(ctx, id)
		if err == nil {
			if _, err = bus.Subscribe(ctx, s, func(ctx context.Context, e Done) error {
				say(record{What: heard, ID: e.ID, Group: id, Session: e.Session})
				return nil
			}); err == nil {
				return s, nil
			}
			_ = s.Close(ctx)
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("open %s: %w", id, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s actorSettings) publish(ctx context.Context, b *bus.Bus, n int) {
	e := Done{ID: fmt.Sprintf("e-%s-%d", s.Name, n), Publisher: s.Name, N: n}
	if n%50 == 49 {
		e.ID = fmt.Sprintf("e-%s-poison-%d", s.Name, n)
	}
	publishUntilStored(ctx, b, e)
}

// publishUntilStored publishes under one id until it is sure that the event is stored:
// within the dedup window, that stores it once. False: its session has ended.
func publishUntilStored(ctx context.Context, in bus.Scope, e Done) bool {
	say(record{What: trying, ID: e.ID, Session: e.Session})
	for {
		err := bus.Publish(ctx, in, e, bus.WithID(e.ID), bus.WithKey(e.Publisher), bus.WithTimeout(5*time.Second))
		if err == nil {
			say(record{What: published, ID: e.ID, Session: e.Session})
			return true
		}
		say(record{What: doubted, ID: e.ID, Session: e.Session, Text: string(bus.CodeOf(err))})
		if errors.Is(err, bus.ErrSessionExpired) || errors.Is(err, bus.ErrSessionClosed) {
			return false
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// command executes a command once, or with a key until it has the result, and then once
// more: that must be the same one.
func (s actorSettings) command(ctx context.Context, b *bus.Bus, n int) {
	switch n % 10 {
	case 3:
		s.execute(ctx, b, fmt.Sprintf("c-%s-%d", s.Name, n))
	case 7:
		id := fmt.Sprintf("k-%s-%d", s.Name, n)
		for range 20 {
			if s.execute(ctx, b, id, bus.WithIdempotencyKey(id)) {
				s.execute(ctx, b, id, bus.WithIdempotencyKey(id))
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func (s actorSettings) execute(ctx context.Context, b *bus.Bus, id string, opts ...bus.ExecuteOption) bool {
	say(record{What: asked, ID: id})
	result, err := bus.Execute(ctx, b, Work{ID: id}, append(opts, bus.WithTimeout(3*time.Second))...)
	if err != nil {
		say(record{What: refused, ID: id, Text: string(bus.CodeOf(err))})
		return false
	}
	say(record{What: answered, ID: id, Text: result})
	return true
}
