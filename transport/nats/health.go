package nats

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-bus/jitney/transport"
)

// Health implements transport.HealthChecker: the connection; JetStream, which is
// asked for the four streams at once; that these are there and have a leader; the
// consumers and private readers, by what is known of them here; and what is known of
// durability.
func (t *Transport) Health(ctx context.Context) []transport.Check {
	connection := transport.Check{Name: "connection", Err: t.disconnected()}
	js := transport.Check{Name: "jetstream"}
	streams := transport.Check{Name: "streams"}
	consumers := transport.Check{Name: "consumers", Err: t.unreadable(), Usable: true}
	durability := transport.Check{Name: "durability"}
	if connection.Err != nil {
		js.Err = errors.New("not asked: there is no connection")
		streams.Err = js.Err
		return []transport.Check{connection, js, streams, consumers, durability}
	}
	connection.Note = t.link.conn().ConnectedUrlRedacted()
	var infos []*jetstream.StreamInfo
	infos, js.Err, streams.Err = t.lookAtStreams(ctx)
	if js.Err != nil {
		streams.Err = errors.New("not known: JetStream does not answer")
	}
	if len(infos) > 0 {
		durability.Note = t.durability(infos[0])
	}
	return []transport.Check{connection, js, streams, consumers, durability}
}

// disconnected says why there is no connection.
func (t *Transport) disconnected() error {
	nc := t.link.conn()
	switch st := nc.Status(); {
	case t.isClosed():
		return transport.ErrClosed
	case st == nats.CONNECTED:
		return nil
	case nc.LastError() != nil:
		return fmt.Errorf("%s: %w", strings.ToLower(st.String()), nc.LastError())
	default:
		return errors.New(strings.ToLower(st.String()))
	}
}

// lookAtStreams asks for the streams, the events' first. unanswered is that JetStream
// is not there, missing that a stream is not.
func (t *Transport) lookAtStreams(ctx context.Context) (infos []*jetstream.StreamInfo, unanswered, missing error) {
	names := []string{t.names.events(), t.names.retries(), t.names.deadLetters(), "KV_" + t.names.bucket()}
	infos = make([]*jetstream.StreamInfo, len(names))
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			errs[i] = t.calls.once(ctx, callLongest, func(ctx context.Context, js jetstream.JetStream) error {
				s, err := js.Stream(ctx, name)
				if err == nil {
					infos[i] = s.CachedInfo()
				}
				return err
			})
		})
	}
	wg.Wait()
	found := infos[:0]
	for i, name := range names {
		info, err := infos[i], errs[i]
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			missing = errors.Join(missing, fmt.Errorf("stream %s is not there", name))
		case err != nil:
			unanswered = mapError("look at stream "+name, err)
		case info.Cluster != nil && info.Cluster.Name != "" && info.Cluster.Leader == "":
			missing = errors.Join(missing, fmt.Errorf("stream %s has no leader", name))
		default:
			found = append(found, info)
		}
	}
	return found, unanswered, missing
}

// reading is a source that knows whether it can read.
type reading interface{ unreadable() error }

// unreadable says which of the readers cannot read now.
func (t *Transport) unreadable() error {
	t.mu.Lock()
	var all []reading
	for s := range t.sources {
		if r, ok := s.(reading); ok {
			all = append(all, r)
		}
	}
	t.mu.Unlock()
	var errs []error
	for _, r := range all {
		if err := r.unreadable(); err != nil && len(errs) < 10 {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (g *groupReader) unreadable() error {
	for _, p := range g.pullers {
		p.mu.Lock()
		broken := p.broken
		p.mu.Unlock()
		if broken {
			return fmt.Errorf("consumer %s of stream %s cannot be read", p.consumer, p.stream)
		}
	}
	return nil
}

func (r *liveReader) unreadable() error {
	if r.behind.Load() {
		return fmt.Errorf("a private listener of %s cannot read what it has missed", r.filter)
	}
	return nil
}

// durability says what an acknowledged event survives, as far as a client can know.
func (t *Transport) durability(events *jetstream.StreamInfo) string {
	if d, ok := t.cfg.Server.(interface{ Durable() (kept, synced bool) }); ok {
		switch kept, synced := d.Durable(); {
		case !kept:
			return "the server in this process keeps no events across its restarts (embedded.Config.Dir)"
		case synced:
			return ""
		}
		return "what was acknowledged may be lost with the machine's power (embedded.Config.SyncAlways)"
	}
	var notes []string
	if events.Config.Storage == jetstream.MemoryStorage {
		notes = append(notes, "events are stored in memory: they do not survive the servers that hold them")
	}
	if events.Config.Replicas < 2 && events.Cluster != nil && events.Cluster.Name != "" {
		notes = append(notes, "events are on one server of the cluster (Config.Replicas)")
	}
	if events.Config.Storage == jetstream.FileStorage && !t.cfg.SyncAlways {
		notes = append(notes, "what was acknowledged may be lost with the power of the servers, unless each has sync_interval: always, "+
			"which a client cannot see (Config.SyncAlways says that they have)")
	}
	return strings.Join(notes, "; ")
}

// tellDurability says so at the start.
func (t *Transport) tellDurability(ctx context.Context) {
	infos, _, _ := t.lookAtStreams(ctx)
	if len(infos) == 0 {
		return // Health will tell
	}
	if note := t.durability(infos[0]); note != "" {
		t.log.Info("durability", "note", note)
	}
}
