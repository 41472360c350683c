package bus

import "sync"

// Together calls fn, and lets the groups whose listeners fn subscribes begin to read
// when fn returns. It is for several handlers of one event in one group: each
// Subscribe by itself takes effect at once, and what the group reads before the
// second one is there, such as what has been waiting since the last process ended,
// is handled by the first alone.
//
//	err := b.Together(func() error {
//		_, err := bus.Subscribe(ctx, b, index, bus.WithName("index"))
//		if err == nil {
//			_, err = bus.Subscribe(ctx, b, notify, bus.WithName("notify"))
//		}
//		return err
//	})
//
// It returns what fn returns; what fn has subscribed begins also when fn fails or
// panics, until it is closed. fn should register and do nothing that takes long: an
// event that is handed to this process meanwhile waits for it. Commands, private
// listeners and those of sessions begin at once all the same. Calls may be nested
// and concurrent: the groups begin when no fn runs any more.
func (b *Bus) Together(fn func() error) error {
	if fn == nil {
		return errorf(CodeInvalid, "together", "", "function is nil")
	}
	b.gate.hold()
	defer b.gate.release()
	return fn()
}

// gate holds readers back that are not to begin yet.
type gate struct {
	mu      sync.Mutex
	held    int // by so many
	waiting []*reader
}

func (g *gate) hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held++
}

func (g *gate) release() {
	g.mu.Lock()
	var begin []*reader
	if g.held--; g.held == 0 {
		begin, g.waiting = g.waiting, nil
	}
	g.mu.Unlock()
	for _, r := range begin {
		r.begin()
	}
}

// pass lets r begin, now or when nobody holds it back.
func (g *gate) pass(r *reader) {
	if r.key.group != "" && g.keeps(r) {
		return
	}
	r.begin()
}

func (g *gate) keeps(r *reader) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held > 0 {
		g.waiting = append(g.waiting, r)
	}
	return g.held > 0
}

// begin has the reader take deliveries. A reader that closes begins too, so that its
// workers see that it has closed.
func (r *reader) begin() { r.once.Do(r.pump.start) }

// missed warns if the group has read events here before a listener of it came.
func (r *reader) missed(l *listener) {
	if r.key.group != "" && r.took.Load() {
		r.b.log.Warn("listener joined a group that had read events here before, which were not for it; subscribe the handlers of a group in Bus.Together",
			"name", r.key.name, "group", r.key.group, "handler", l.name)
	}
}
