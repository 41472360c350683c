// Package memory carries a bus inside one process.
//
// It keeps what the seam promises, except across a restart: everything is gone
// when the process ends.
//
//  1. Events live in one log, bounded by [Config.MaxEvents]. Each group has its
//     own place in it. Until the log is full a slow group delays nobody. When it
//     is full of events that some group has not settled, Publish waits for its
//     ctx and then returns a *transport.BacklogError that names the group that
//     is furthest behind. Delayed events count too, and so does an event that is
//     addressed to a group: it waits for that group even if the group has never
//     been subscribed, and holds its place in the log for good if it never is.
//  2. An event that no group is still to settle, be it that all did or that none
//     was there, stays as history for groups that start at All or Since:
//     [Config.MaxHistory] of them, fewer if the log is full. The longest settled
//     goes first.
//  3. Events of one publisher are stored, and first delivered, in the order
//     published. An event that comes again comes before new ones.
//  4. A private reader that falls behind by [Config.MaxPrivate] events loses its
//     oldest. That is logged once per lapse and counted in [Stats]; it never
//     delays a publisher.
//  5. Nothing is prefetched: an event is in the log until Next returns it, so
//     Subscription.Prefetch has no effect, and the lease begins at Next.
//
// Without [Config.Codec] Go values pass by reference: what is sent is read-only
// from then on, for its sender and for every receiver, and so is each message
// that is handed out. With a codec each message is encoded and copied as if it
// crossed a network.
package memory

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/transport"
)

// Config configures a Transport. The zero value is ready to use.
type Config struct {
	// Codec makes the bus encode each message, and bodies travel instead of
	// values. Default: values pass by reference.
	Codec codec.Codec
	// Logger is told what is lost or nearly. Default: silent.
	Logger *slog.Logger

	// MaxEvents is how many events the log holds. Default 10,000.
	MaxEvents int
	// MaxHistory is how many events stay in the log that no group is to settle.
	// Default 1,000. It holds their values in memory, and costs the garbage
	// collector time.
	MaxHistory int
	// MaxPrivate is how many events wait for one private reader. Default 10,000.
	MaxPrivate int
	// MaxBody is the largest body in bytes; it has effect with Codec only, since
	// values have no size. Default 1 MiB - 64 KiB, as on NATS.
	MaxBody int
	// DedupWindow is how long an event's ID is remembered, unless it is Fresh.
	// Default 2 minutes; negative: not at all.
	DedupWindow time.Duration
	// MaxDedup is how many IDs are remembered: at a higher rate the window is
	// shorter. Default 32,768.
	MaxDedup int

	// MaxDeadLetters is how many dead letters are kept. Default 1,000.
	MaxDeadLetters int
	// DropDeadLetters drops the oldest dead letter when they are full, which is
	// logged and counted in Stats. Default: the newest is refused, so that its
	// event stays with its group.
	DropDeadLetters bool
	// MaxDeadLetterAge is how long a dead letter is kept. What becomes too old is
	// logged and counted in Stats. Default: as long as the process lives.
	MaxDeadLetterAge time.Duration

	// MaxStore bounds what the Store keeps for a while, in bytes, with 256 for each
	// key beside the key and its value: above all the results of commands with an
	// idempotency key. A key with a TTL that would exceed it is refused with
	// transport.ErrBacklog. Default 256 MiB.
	MaxStore int
}

func (c *Config) setDefaults() {
	set := func(n *int, d int) {
		if *n <= 0 {
			*n = d
		}
	}
	set(&c.MaxEvents, 10_000)
	set(&c.MaxHistory, 1_000)
	set(&c.MaxPrivate, 10_000)
	set(&c.MaxBody, 1<<20-64<<10)
	set(&c.MaxDedup, 32_768)
	set(&c.MaxDeadLetters, 1_000)
	set(&c.MaxStore, 256<<20)
	if c.DedupWindow == 0 {
		c.DedupWindow = 2 * time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Transport is a transport.Transport inside one process. Make it with New; its
// methods are safe for concurrent use.
type Transport struct {
	cfg   Config
	epoch time.Time // times inside are durations since then

	// Events, in log.go to delivery.go.
	mu        sync.Mutex
	log       log
	topics    map[string]*topic
	dedup     dedup
	scheduled later[*entry]
	due       alarm // of scheduled
	blocked   waitList
	dropped   uint64 // by private readers that fell behind
	lapses    int    // how many of them just began to, and are to be logged
	closed    bool

	commands commands
	dead     deadLetters
	store    store
	closing  chan struct{}  // closed by Close
	alarms   sync.WaitGroup // alarms that are set or ringing
}

var (
	_ transport.Transport     = (*Transport)(nil)
	_ transport.InProcess     = (*Transport)(nil)
	_ transport.HealthChecker = (*Transport)(nil)
)

// New returns an empty transport.
func New(c Config) *Transport {
	c.setDefaults()
	t := &Transport{cfg: c, epoch: time.Now(), topics: map[string]*topic{}, closing: make(chan struct{})}
	t.log.limit, t.log.maxHistory = c.MaxEvents, c.MaxHistory
	t.dedup = newDedup(c.DedupWindow, c.MaxDedup)
	t.due = alarm{t: t, ring: t.deliverDue}
	t.commands.services = map[transport.Address]*service{}
	t.dead = deadLetters{t: t, byID: map[string]*deadLetter{}}
	t.dead.ageing = alarm{t: t, ring: t.dead.expire}
	t.store = store{t: t, keys: map[string]*record{}, watchers: map[*watcher]struct{}{}}
	t.store.expiry = alarm{t: t, ring: t.store.expire}
	return t
}

// InProcess reports whether values pass by reference: true without a codec.
func (t *Transport) InProcess() bool { return t.cfg.Codec == nil }

// Codec returns the codec that the transport was configured with, or nil.
func (t *Transport) Codec() codec.Codec { return t.cfg.Codec }

// DeadLetters returns the dead letters of this transport.
func (t *Transport) DeadLetters() transport.DeadLetters { return &t.dead }

// Store returns the store of this transport.
func (t *Transport) Store() transport.Store { return &t.store }

// Health implements transport.HealthChecker: it is well until it is closed.
func (t *Transport) Health(context.Context) []transport.Check {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := transport.Check{Name: "transport", Note: "in memory: nothing survives the process"}
	if t.closed {
		c.Err = transport.ErrClosed
	}
	return []transport.Check{c}
}

// Stats says how full a Transport is and what it dropped.
type Stats struct {
	// Events is how many events in the log some group has not settled, or are
	// delayed; at Config.MaxEvents Publish waits.
	Events int
	// History is how many settled events the log still holds.
	History int
	// Dropped counts events that private readers lost by falling behind.
	Dropped uint64
	// DeadLetters is how many there are.
	DeadLetters int
	// DeadLettersDropped counts dead letters that made room for newer ones.
	DeadLettersDropped uint64
	// DeadLettersExpired counts dead letters that became too old.
	DeadLettersExpired uint64
}

// Stats returns the transport's state.
func (t *Transport) Stats() Stats {
	t.mu.Lock()
	s := Stats{Events: t.log.count - t.log.history, History: t.log.history, Dropped: t.dropped}
	t.mu.Unlock()
	d := t.dead.stats()
	s.DeadLetters, s.DeadLettersDropped, s.DeadLettersExpired = d.Count, d.Dropped, d.Expired
	return s
}

// Close closes every source; calls in progress and later ones return ErrClosed.
// It does not wait for messages to be handled, and ignores ctx.
func (t *Transport) Close(context.Context) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	close(t.closing)
	woken := t.blocked.takeAll(nil)
	for _, tp := range t.topics {
		woken = tp.close(woken)
	}
	t.due.stop()
	t.mu.Unlock()
	for _, w := range woken {
		w.signal()
	}
	t.commands.close()
	t.dead.close()
	t.store.close()
	t.alarms.Wait()
	return nil
}

// now is the time since the transport was made, by the monotonic clock.
func (t *Transport) now() time.Duration { return time.Since(t.epoch) }

// never is a time that does not come.
const never = time.Duration(1<<63 - 1)

// after is the time d past now; never if it cannot be told.
func after(now, d time.Duration) time.Duration {
	if d > never-now {
		return never
	}
	return now + d
}

// at is the moment of a now, for people and leases.
func (t *Transport) at(d time.Duration) time.Time { return t.epoch.Add(d) }
