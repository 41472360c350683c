package world

import (
	"context"

	"github.com/jitney-bus/jitney/transport"
)

// DeadLetters makes a faulty transport's dead letters fail too: "bury", "unbury",
// "dead list", "dead get" and "dead stats", with the id where there is one.
func (t *Faulty) DeadLetters() transport.DeadLetters {
	return faultyDeadLetters{t.Transport.DeadLetters(), t}
}

type faultyDeadLetters struct {
	transport.DeadLetters
	t *Faulty
}

func (d faultyDeadLetters) Add(ctx context.Context, l *transport.DeadLetter) error {
	if err := d.t.before(ctx, "bury", l.ID); err != nil {
		return err
	}
	return d.t.done(ctx, "bury", l.ID, d.DeadLetters.Add(ctx, l))
}

func (d faultyDeadLetters) Remove(ctx context.Context, id string) error {
	if err := d.t.before(ctx, "unbury", id); err != nil {
		return err
	}
	return d.t.done(ctx, "unbury", id, d.DeadLetters.Remove(ctx, id))
}

func (d faultyDeadLetters) List(ctx context.Context, q transport.DeadLetterQuery) ([]*transport.DeadLetter, error) {
	if err := d.t.before(ctx, "dead list", ""); err != nil {
		return nil, err
	}
	return d.DeadLetters.List(ctx, q)
}

func (d faultyDeadLetters) Get(ctx context.Context, id string) (*transport.DeadLetter, error) {
	if err := d.t.before(ctx, "dead get", id); err != nil {
		return nil, err
	}
	return d.DeadLetters.Get(ctx, id)
}

func (d faultyDeadLetters) Stats(ctx context.Context) (transport.DeadLetterStats, error) {
	if err := d.t.before(ctx, "dead stats", ""); err != nil {
		return transport.DeadLetterStats{}, err
	}
	return d.DeadLetters.Stats(ctx)
}
