package nats

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// pullExpiry is how long one pull request waits at the server.
	pullExpiry = 30 * time.Second
	// pullHeartbeat is how often the server says that a pull request still waits.
	// Two missed ones mean that it was lost, as with a leader that was killed.
	pullHeartbeat = 3 * time.Second
	// floorInterval is how often the group's progress is noted, for a consumer
	// that somebody deletes.
	floorInterval = 30 * time.Second
	// recoverTry bounds one attempt to make a broken consumer work again, and the
	// waits lie between attempts.
	recoverTry     = 5 * time.Second
	recoverWait    = 250 * time.Millisecond
	maxRecoverWait = 10 * time.Second
)

// puller reads one durable consumer for a groupReader: it keeps pull requests at
// the server for as many messages as the reader has room for.
type puller struct {
	g        *groupReader
	stream   string
	consumer string
	filter   string
	room     int  // how many may be buffered or asked for
	retry    bool // of the retry stream

	last place // of the last message; only receive looks at it

	mu       sync.Mutex
	in       intake
	inbox    string
	asked    int           // messages asked for and not arrived
	buffered int           // messages arrived and not taken by Next
	heard    time.Time     // of the server, about this consumer
	active   bool          // messages arrived since the floor was read
	floor    uint64        // everything below was settled by the group
	high     uint64        // the last that arrived for the first time
	ackWait  time.Duration // the consumer's
	broken   bool          // run makes it work again
	kick     chan struct{} // wakes run
}

// open makes sure that the consumer is there and subscribes the inbox of its
// messages.
func (p *puller) open(ctx context.Context) error {
	p.kick = make(chan struct{}, 1)
	if err := p.ensure(ctx, p.g.start(p.retry)); err != nil {
		return err
	}
	before := p.g.t.link.conn().LastError()
	if err := p.subscribe(); err != nil {
		return err
	}
	return settleSubscription(ctx, p.g.t.link, before, p.inbox)
}

func (p *puller) subscribe() error {
	inbox := p.g.t.cfg.InboxPrefix + "." + newToken()
	nc := p.g.t.link.conn()
	sub, err := nc.Subscribe(inbox, p.receive)
	if err != nil {
		return err
	}
	in := newIntake(nc, sub)
	if err := sub.SetPendingLimits(-1, -1); err != nil { // the room bounds them
		return err
	}
	p.mu.Lock()
	p.in, p.inbox, p.heard = in, inbox, time.Now()
	p.mu.Unlock()
	return nil
}

// onLink asks again for what the old connection had asked for.
func (p *puller) onLink(ev linkEvent) {
	if p.g.isClosed() {
		return
	}
	if ev == linkNew {
		if err := p.subscribe(); err != nil {
			p.fix() // run tries again
			return
		}
	}
	p.mu.Lock()
	p.asked, p.heard = 0, time.Now()
	p.mu.Unlock()
	p.pull()
}

// receive takes what the server sends: messages, and words about pull requests.
func (p *puller) receive(in *nats.Msg) {
	now := time.Now()
	if in.Subject == p.inbox {
		p.status(in, now)
		return
	}
	if in.Subject != p.last.subject {
		p.last = p.g.t.names.place(in.Subject)
	}
	d := &delivery{p: p, inbox: in.Reply}
	p.last.read(&d.m, headersOf(in), in.Data)
	d.lease.Store(now.Add(p.g.leaseFor).UnixNano())
	a, ok := parseAckReply(in.Reply)
	if !ok {
		// Not from the stream: somebody wrote to our inbox. There is nothing to
		// settle it with.
		p.g.t.log.Warn("foreign message in a pull inbox dropped", "subject", in.Subject, "reply", in.Reply)
		return
	}
	d.stored, d.handed = a.sequence, a.deliveries
	if d.m.SentAt.IsZero() {
		d.m.SentAt = a.stored
	}
	if _, later := in.Header[hdrScheduler]; later {
		d.m.DeliverAt = a.stored // about when it was due, for people only
	}
	p.mu.Lock()
	p.asked = max(p.asked-1, 0)
	p.buffered++
	p.heard, p.active = now, true
	if d.handed == 1 {
		p.high = max(p.high, d.stored)
	}
	hungry := p.hungry()
	p.mu.Unlock()
	p.g.push(d)
	if hungry {
		p.pull()
	}
}

// status takes the server's word about a pull request.
func (p *puller) status(in *nats.Msg, now time.Time) {
	code := in.Header.Get("Status")
	text := in.Header.Get("Description")
	p.mu.Lock()
	p.heard = now
	switch code {
	case "100": // it still waits
		p.mu.Unlock()
		return
	case "404", "408": // it is over; so many messages did not come
		if left, err := strconv.Atoi(in.Header.Get("Nats-Pending-Messages")); err == nil {
			p.asked = max(p.asked-left, 0)
		} else {
			p.asked = 0
		}
		p.mu.Unlock()
		p.pull()
		return
	}
	p.asked = 0
	p.mu.Unlock()
	if !p.g.isClosed() {
		p.g.t.log.Warn("the server ended a pull request", "consumer", p.consumer, "stream", p.stream, "status", code, "text", text)
		p.fix()
	}
}

// fix makes run look at the consumer.
func (p *puller) fix() {
	p.mu.Lock()
	p.broken = true
	p.mu.Unlock()
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// taken notes that Next took a message, and asks for more.
func (p *puller) taken() {
	p.mu.Lock()
	p.buffered--
	hungry := p.hungry()
	p.mu.Unlock()
	if hungry {
		p.pull()
	}
}

// hungry says whether a quarter of the room is free. The caller holds the lock.
func (p *puller) hungry() bool {
	n := p.room - p.buffered - p.asked
	return !p.broken && n > 0 && n >= (p.room+3)/4
}

// pull asks for more once a quarter of the room is free.
func (p *puller) pull() {
	if p.g.isClosed() || p.g.isStale() {
		return
	}
	p.mu.Lock()
	if !p.hungry() {
		p.mu.Unlock()
		return
	}
	n := p.room - p.buffered - p.asked
	p.asked += n
	inbox := p.inbox
	p.mu.Unlock()
	b := make([]byte, 0, 96)
	b = append(b, `{"expires":`...)
	b = strconv.AppendInt(b, int64(pullExpiry), 10)
	b = append(b, `,"idle_heartbeat":`...)
	b = strconv.AppendInt(b, int64(pullHeartbeat), 10)
	b = append(b, `,"batch":`...)
	b = strconv.AppendInt(b, int64(n), 10)
	b = append(b, '}')
	err := p.g.t.link.conn().PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+p.stream+"."+p.consumer, inbox, b)
	if err != nil {
		p.mu.Lock()
		p.asked = max(p.asked-n, 0) // run, or the link when it is back, asks again
		p.mu.Unlock()
	}
}

// run notices lost pull requests and makes a broken consumer work again.
func (p *puller) run(ctx context.Context) {
	tick := time.NewTimer(pullHeartbeat)
	defer tick.Stop()
	noted := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.kick:
		case <-tick.C:
		}
		now := time.Now()
		p.mu.Lock()
		silent := p.asked > 0 && now.Sub(p.heard) > 2*pullHeartbeat
		note := p.active && now.Sub(noted) >= floorInterval
		broken := p.broken || silent
		p.mu.Unlock()
		switch {
		case broken:
			p.recover(ctx)
		case note:
			noted = now
			p.noteFloor(ctx)
		}
		p.pull() // if a request was not sent
		tick.Reset(pullHeartbeat)
	}
}

// recover looks whether the consumer is there, makes it again if not, and asks
// for messages anew. It goes on until that works or ctx ends; what keeps it from
// working is told by Next.
func (p *puller) recover(ctx context.Context) {
	p.mu.Lock()
	p.broken = true
	p.mu.Unlock()
	for wait := recoverWait; ; wait = min(2*wait, maxRecoverWait) {
		if p.g.t.link.conn().IsConnected() {
			try, cancel := context.WithTimeout(ctx, recoverTry)
			err := p.restore(try)
			cancel()
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return
			}
			p.g.t.log.Error("a group cannot be read", "name", p.g.sub.Name, "group", p.g.sub.Group,
				"stream", p.stream, "consumer", p.consumer, "err", err)
			p.g.fail(mapError("read consumer "+p.consumer+" of stream "+p.stream, err))
		}
		if !sleep(ctx, wait) {
			return
		}
	}
	p.mu.Lock()
	p.broken, p.asked, p.heard = false, 0, time.Now()
	p.mu.Unlock()
}

func (p *puller) restore(ctx context.Context) error {
	p.mu.Lock()
	valid := p.in.sub.IsValid()
	p.mu.Unlock()
	if !valid {
		if err := p.subscribe(); err != nil {
			return err
		}
	}
	start, err := p.resumeFrom(ctx)
	if err != nil {
		return err
	}
	return p.ensure(ctx, start)
}

// resumeFrom says where a consumer that somebody deleted goes on: where the group
// was when that was last noted, so that what was not settled comes again.
func (p *puller) resumeFrom(ctx context.Context) (start consumerStart, err error) {
	if p.retry {
		return consumerStart{policy: jetstream.DeliverAllPolicy}, nil
	}
	p.mu.Lock()
	floor := p.floor
	p.mu.Unlock()
	err = p.g.t.calls.try(ctx, "look at stream "+p.stream, func(ctx context.Context, js jetstream.JetStream) error {
		s, err := js.Stream(ctx, p.stream)
		if err != nil {
			return err
		}
		if last := s.CachedInfo().State.LastSeq; floor > last+1 {
			floor = 0 // it is another stream than the one that was read
		}
		return nil
	})
	if floor == 0 {
		return consumerStart{policy: jetstream.DeliverAllPolicy}, err
	}
	return consumerStart{policy: jetstream.DeliverByStartSequencePolicy, seq: floor}, err
}

// noteFloor remembers how far the group is.
func (p *puller) noteFloor(ctx context.Context) {
	try, cancel := context.WithTimeout(ctx, callLongest)
	defer cancel()
	c, err := p.g.t.link.jetStream().Consumer(try, p.stream, p.consumer)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		p.fix()
	case err == nil:
		p.mu.Lock()
		p.floor, p.active = c.CachedInfo().AckFloor.Stream+1, false
		p.mu.Unlock()
	}
}

// drain ends the subscription and waits for what was sent before the server
// heard of it.
func (p *puller) drain(ctx context.Context) error {
	p.mu.Lock()
	in := p.in
	p.mu.Unlock()
	if connected, err := in.drain(ctx); err != nil || !connected {
		return err
	}
	if err := p.noteLost(ctx); err != nil {
		p.g.t.log.Warn("cannot record which deliveries a closing reader may have missed; they count",
			"name", p.g.sub.Name, "group", p.g.sub.Group, "err", err)
	}
	return nil
}

// noteLost records which copies the server may have sent into the void.
func (p *puller) noteLost(ctx context.Context) error {
	p.mu.Lock()
	asked, high := p.asked, p.high
	p.mu.Unlock()
	if asked == 0 || !p.g.t.link.conn().IsConnected() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, handBackTry)
	defer cancel()
	var delivered uint64
	err := p.g.t.calls.try(ctx, "look at consumer "+p.consumer, func(ctx context.Context, js jetstream.JetStream) error {
		c, err := js.Consumer(ctx, p.stream, p.consumer)
		if err == nil {
			delivered = c.CachedInfo().Delivered.Stream
		}
		return err
	})
	if err != nil || delivered <= high {
		return err
	}
	return p.g.t.recordLost(ctx, p, high+1, delivered)
}

// drop ends a subscription that was never used.
func (p *puller) drop() {
	if p.in.sub != nil {
		_ = p.in.sub.Unsubscribe()
	}
}
