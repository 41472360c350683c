package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-bus/jitney/transport"
)

// consumerStart is where a new consumer begins.
type consumerStart struct {
	policy jetstream.DeliverPolicy
	seq    uint64
	since  time.Time
}

// start says where the group begins if it is new.
func (g *groupReader) start(retry bool) consumerStart {
	switch {
	case retry || g.sub.Start.All:
		return consumerStart{policy: jetstream.DeliverAllPolicy}
	case !g.sub.Start.Since.IsZero():
		return consumerStart{policy: jetstream.DeliverByStartTimePolicy, since: g.sub.Start.Since}
	}
	return consumerStart{policy: jetstream.DeliverNewPolicy}
}

// ensure makes the consumer or checks the one that is there.
func (p *puller) ensure(ctx context.Context, start consumerStart) error {
	want := jetstream.ConsumerConfig{
		Durable: p.consumer, FilterSubject: p.filter, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: p.g.sub.AckWait, MaxAckPending: p.g.sub.MaxAckPending, MaxDeliver: -1,
		DeliverPolicy: start.policy, OptStartSeq: start.seq,
		Metadata: map[string]string{schemaKey: strconv.Itoa(schemaVersion)},
	}
	if !start.since.IsZero() {
		want.OptStartTime = &start.since
	}
	doing := "consumer " + p.consumer + " of stream " + p.stream
	return p.g.t.calls.try(ctx, doing, func(ctx context.Context, js jetstream.JetStream) error {
		c, err := js.Consumer(ctx, p.stream, p.consumer)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			if p.g.t.cfg.BindOnly {
				return fmt.Errorf("%w: it does not exist, and BindOnly creates nothing", transport.ErrConfig)
			}
			p.g.t.log.Info("new consumer", "stream", p.stream, "consumer", p.consumer)
			if c, err = js.CreateConsumer(ctx, p.stream, want); isConsumerThere(err) {
				c, err = js.Consumer(ctx, p.stream, p.consumer) // another process was first
			}
		}
		if api := (*jetstream.APIError)(nil); errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeMaximumConsumersLimit {
			return fmt.Errorf("%w: each event that a group listens to is a consumer of this stream; raise its max_consumers, or the account's: %w",
				transport.ErrBacklog, err)
		}
		if errors.Is(err, jetstream.ErrNotPullConsumer) {
			return fmt.Errorf("%w: it is a push consumer, wanted a pull consumer", transport.ErrConfig)
		}
		if err != nil {
			return err
		}
		return p.adopt(ctx, js, c.CachedInfo(), want)
	})
}

// adopt checks a consumer that is there, updates what may be, and takes over what
// it says.
func (p *puller) adopt(ctx context.Context, js jetstream.JetStream, info *jetstream.ConsumerInfo, want jetstream.ConsumerConfig) error {
	next, diff := planConsumer(info.Config, want)
	if diff != "" {
		return fmt.Errorf("%w: %s; use another group, or delete the consumer if its position may be lost", transport.ErrConfig, diff)
	}
	if next != nil && !p.g.t.cfg.BindOnly {
		if _, err := js.UpdateConsumer(ctx, p.stream, *next); err != nil {
			return err
		}
		info.Config = *next
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.floor, p.ackWait = info.AckFloor.Stream+1, info.Config.AckWait
	p.high = max(p.high, info.Delivered.Stream)
	return nil
}

// planConsumer compares a consumer with what is wanted. diff is what cannot be
// changed; next is the update to make, if any. AckWait only grows: a process with
// a shorter one has shorter leases, which is safe, while the others' would become
// wrong.
func planConsumer(have, want jetstream.ConsumerConfig) (next *jetstream.ConsumerConfig, diff string) {
	switch {
	case have.FilterSubject != want.FilterSubject || len(have.FilterSubjects) > 0:
		return nil, fmt.Sprintf("FilterSubject is %q %q, wanted %q", have.FilterSubject, have.FilterSubjects, want.FilterSubject)
	case have.AckPolicy != want.AckPolicy:
		return nil, fmt.Sprintf("AckPolicy is %v, wanted %v", have.AckPolicy, want.AckPolicy)
	}
	n := have
	n.AckWait = max(have.AckWait, want.AckWait)
	n.MaxAckPending, n.MaxDeliver, n.BackOff = want.MaxAckPending, want.MaxDeliver, nil
	if n.AckWait == have.AckWait && n.MaxAckPending == have.MaxAckPending && n.MaxDeliver == have.MaxDeliver && len(have.BackOff) == 0 {
		return nil, ""
	}
	return &n, ""
}

func isConsumerThere(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, jetstream.ErrConsumerExists) || errors.As(err, &api) &&
		(api.ErrorCode == jetstream.JSErrCodeConsumerNameExists || api.ErrorCode == jetstream.JSErrCodeConsumerAlreadyExists)
}
