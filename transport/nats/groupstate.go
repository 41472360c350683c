package nats

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-bus/jitney/transport"
)

var _ interface {
	transport.GroupLister
	transport.GroupRetirer
} = (*Transport)(nil)

// Groups implements transport.GroupLister. Copies whose schedule is not due yet are
// not counted: no consumer sees them.
func (t *Transport) Groups(ctx context.Context) ([]transport.GroupState, error) {
	byName := map[string]*transport.GroupState{}
	for _, stream := range []string{t.names.events(), t.names.retries()} {
		infos, err := t.consumers(ctx, stream)
		if err != nil {
			return nil, err
		}
		for _, info := range infos {
			name, group, ok := splitDurable(info.Name)
			if !ok || info.Config.Metadata[schemaKey] == "" {
				continue // somebody else's
			}
			s := byName[info.Name]
			if s == nil {
				s = &transport.GroupState{Name: name, Group: group}
				byName[info.Name] = s
			}
			s.Pending += int(info.NumPending)
			s.Unsettled += info.NumAckPending
			s.Redelivered += info.NumRedelivered
		}
	}
	all := make([]transport.GroupState, 0, len(byName))
	for _, s := range byName {
		all = append(all, *s)
	}
	return all, nil
}

// consumers lists the consumers of a stream.
func (t *Transport) consumers(ctx context.Context, stream string) (all []*jetstream.ConsumerInfo, err error) {
	err = t.calls.try(ctx, "list the consumers of stream "+stream, func(ctx context.Context, js jetstream.JetStream) error {
		all = all[:0]
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		list := s.ListConsumers(ctx)
		for info := range list.Info() {
			all = append(all, info)
		}
		return list.Err()
	})
	return all, err
}

// splitDurable is durable backwards.
func splitDurable(consumer string) (name, group string, ok bool) {
	group, name, ok = strings.Cut(consumer, "=")
	return strings.ReplaceAll(name, "=", "."), group, ok && name != ""
}

// RetireGroup implements transport.GroupRetirer. A group is taken to be read while a
// process asks for its messages.
func (t *Transport) RetireGroup(ctx context.Context, name, group string) error {
	retry, err := t.names.retry(group, name)
	if err != nil {
		return err
	}
	consumer := durable(group, name)
	found := false
	for _, stream := range []string{t.names.events(), t.names.retries()} {
		there, err := t.unread(ctx, stream, consumer)
		if err != nil {
			return err
		}
		found = found || there
	}
	if !found {
		return fmt.Errorf("group %q of %q: %w", group, name, transport.ErrNotFound)
	}
	for _, stream := range []string{t.names.events(), t.names.retries()} {
		err := t.calls.try(ctx, "delete consumer "+consumer+" of stream "+stream, func(ctx context.Context, js jetstream.JetStream) error {
			err := js.DeleteConsumer(ctx, stream, consumer)
			if errors.Is(err, jetstream.ErrConsumerNotFound) {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return t.calls.try(ctx, "purge "+retry, func(ctx context.Context, js jetstream.JetStream) error {
		s, err := js.Stream(ctx, t.names.retries())
		if err != nil {
			return err
		}
		return s.Purge(ctx, jetstream.WithPurgeSubject(retry))
	})
}

// unread reports whether a consumer is there. It errors if somebody pulls from it.
func (t *Transport) unread(ctx context.Context, stream, consumer string) (there bool, err error) {
	err = t.calls.try(ctx, "look at consumer "+consumer, func(ctx context.Context, js jetstream.JetStream) error {
		c, err := js.Consumer(ctx, stream, consumer)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		there = true
		if n := c.CachedInfo().NumWaiting; n > 0 {
			return fmt.Errorf("%w: %d pull requests wait at consumer %s of stream %s: the group is being read", transport.ErrConflict, n, consumer, stream)
		}
		return nil
	})
	return there, err
}
