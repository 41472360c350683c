//go:build unix

package process

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

// A short run: each fault once, on a few thousand messages.
func TestCluster(t *testing.T) {
	t.Parallel()
	r := newRun(t, plan{publishers: 2, handlers: 2, events: 800, every: 10 * time.Millisecond})
	for _, f := range []string{"step down", "kill leader", "kill handler", "cut", "pause handler", "kill publisher", "mute", "end handler"} {
		r.fault(f)
	}
	r.finish()
}

// One server's disk is full, twice.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	r := newRun(t, plan{publishers: 2, handlers: 2, events: 800, every: 10 * time.Millisecond, smallDisk: true})
	r.fault("full disk")
	r.fault("full disk")
	r.finish()
}

// Faults in the order in which a flag names them.
func TestFaults(t *testing.T) {
	if *faultsFlag == "" {
		t.Log("none named: -faults")
		return
	}
	r := newRun(t, plan{publishers: 2, handlers: 2, events: 1500, every: 10 * time.Millisecond})
	for _, f := range strings.Split(*faultsFlag, ",") {
		r.fault(f)
	}
	r.finish()
}

// A long run: faults at random, on a hundred thousand events.
func TestSoak(t *testing.T) {
	if !*soakFlag {
		t.Log("not asked for: -soak")
		return
	}
	r := newRun(t, plan{publishers: 4, handlers: 3, events: 25_000, every: 20 * time.Millisecond})
	for n := 0; r.publishing() && n < 500; n++ {
		r.fault(faults[r.rng.IntN(len(faults))])
		time.Sleep(time.Duration(r.rng.IntN(4000)) * time.Millisecond)
	}
	r.finish()
}

// faults by name.
var faults = []string{
	"kill leader", "kill node", "pause leader", "step down", "rolling restart", "kill handler", "pause handler", "end handler",
	"kill publisher", "cut", "mute", "slow network", "part leader", "part node", "delete consumer", "jetstream off",
}

type plan struct {
	publishers, handlers int
	events               int // of each publisher
	every                time.Duration
	smallDisk            bool // for the first server
}

// run is a cluster with everybody who uses it.
type run struct {
	*testing.T
	plan
	h   *history
	s   *servers
	js  jetstream.JetStream
	rng *rand.Rand

	handlers   []*process
	handlerN   int
	publishers []*publisher
}

type publisher struct {
	*process
	actorSettings
}

func newRun(t *testing.T, p plan) *run {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1_000_000)
	}
	t.Logf("seed %d", seed)
	h := newHistory()
	r := &run{T: t, plan: p, h: h, s: startServers(t, h, p.smallDisk), rng: rand.New(rand.NewPCG(seed, 1))}
	t.Cleanup(func() {
		for _, p := range r.handlers {
			p.kill()
		}
		for _, p := range r.publishers {
			p.kill()
		}
		if t.Failed() {
			t.Logf("again: go test ./integration/process -run %s -seed %d", t.Name(), seed)
		}
	})
	js, err := jetstream.New(r.s.client(), jetstream.WithDefaultTimeout(3*time.Second))
	require.NoError(t, err)
	r.js = js
	for range p.handlers {
		r.startHandler()
	}
	require.True(t, r.s.healthy(js, "JITNEY_EVT", time.Minute), "the stream has no three replicas")
	for i := range p.publishers {
		r.publishers = append(r.publishers, &publisher{actorSettings: actorSettings{
			Name: fmt.Sprintf("p%d", i+1), URLs: r.s.urls(), Count: p.events, Every: p.every,
		}})
		r.startPublisher(r.publishers[i])
	}
	return r
}

func (r *run) startHandler() {
	r.handlerN++
	name := fmt.Sprintf("h%d", r.handlerN)
	p := spawn(r.T, r.h.line, "handler", name, actorSettings{Name: name, URLs: r.s.urls()})
	p.await(90 * time.Second)
	r.handlers = append(r.handlers, p)
}

func (r *run) startPublisher(p *publisher) {
	p.process = spawn(r.T, r.h.line, "publisher", p.Name, p.actorSettings)
	p.await(90 * time.Second)
}

// publishing reports whether any publisher still has something to do.
func (r *run) publishing() bool {
	for _, p := range r.publishers {
		select {
		case <-p.out:
		default:
			return true
		}
	}
	return false
}

// fault does one thing that goes wrong, and returns when it is over.
func (r *run) fault(name string) {
	r.Logf("%s: %s", time.Now().Format("15:04:05.000"), name)
	r.h.add("test", record{What: fault, ID: name, At: time.Now().UnixNano()})
	node := r.s.nodes[r.rng.IntN(3)]
	if n := r.s.leader(r.js, "JITNEY_EVT"); n != nil && strings.Contains(name, "leader") {
		node = n
	}
	switch name {
	case "kill leader", "kill node":
		node.kill()
		time.Sleep(time.Second)
		r.s.restart(node)
		r.heals()
	case "pause leader":
		node.pause(time.Duration(2+r.rng.IntN(8)) * time.Second)
		r.heals()
	case "part leader", "part node": // from the other servers, not from its clients
		r.s.part(node)
		time.Sleep(time.Duration(3+r.rng.IntN(10)) * time.Second)
		r.s.mend(node)
		r.heals()
	case "full disk": // of one server, which then goes on without JetStream
		node = r.s.nodes[0]
		node.disk.fill(r.T)
		require.Eventually(r, func() bool { return !r.s.healthy(r.js, "JITNEY_EVT", time.Second) }, 30*time.Second, time.Millisecond,
			"a full disk harms nobody")
		node.disk.free(r.T)
		node.kill()
		r.s.restart(node)
		r.heals()
	case "jetstream off":
		node.signal(jetStreamOff)
		time.Sleep(2 * time.Second)
		node.kill()
		r.s.restart(node)
		r.heals()
	case "delete consumer": // with what it knew of the group
		consumer := groups[r.rng.IntN(len(groups))] + "=cluster=done"
		require.Eventually(r, func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			defer cancel()
			return r.js.DeleteConsumer(ctx, "JITNEY_EVT", consumer) == nil
		}, time.Minute, 100*time.Millisecond)
	case "step down":
		for _, stream := range []string{"JITNEY_EVT", "KV_JITNEY_STATE"} {
			_, _ = r.s.client().Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil, 3*time.Second)
		}
		r.heals()
	case "rolling restart":
		for _, n := range r.s.nodes {
			n.signal(syscall.SIGTERM)
			if !n.wait(20 * time.Second) {
				n.kill()
			}
			r.s.restart(n)
			r.heals()
		}
	case "kill handler":
		i := r.rng.IntN(len(r.handlers))
		r.h.killed(r.handlers[i].name)
		r.handlers[i].kill()
		r.handlers = append(r.handlers[:i], r.handlers[i+1:]...)
		r.startHandler()
	case "pause handler": // for longer than the lease on its events
		r.handlers[r.rng.IntN(len(r.handlers))].pause(6 * time.Second)
	case "end handler":
		i := r.rng.IntN(len(r.handlers))
		r.handlers[i].signal(syscall.SIGTERM)
		require.True(r, r.handlers[i].wait(30*time.Second), "%s does not end", r.handlers[i].name)
		r.handlers = append(r.handlers[:i], r.handlers[i+1:]...)
		r.startHandler()
	case "kill publisher":
		r.killPublisher(r.publishers[r.rng.IntN(len(r.publishers))])
	case "cut":
		for range 3 {
			node.proxy.cut()
			time.Sleep(200 * time.Millisecond)
		}
	case "mute": // the connections to one node are half open
		node.proxy.set(true, false, 0)
		time.Sleep(4 * time.Second)
		node.proxy.set(false, false, 0)
		node.proxy.cut()
	case "slow network":
		for _, n := range r.s.nodes {
			n.proxy.set(false, false, 30*time.Millisecond)
		}
		time.Sleep(3 * time.Second)
		for _, n := range r.s.nodes {
			n.proxy.set(false, false, 0)
		}
	default:
		require.Fail(r, "no such fault", name)
	}
}

// killPublisher kills a publisher wherever it is, perhaps between its event's way to the
// server and the answer, and starts it again at the event whose fate it does not know:
// under the same id.
func (r *run) killPublisher(p *publisher) {
	select {
	case <-p.out:
		return // it has ended
	default:
	}
	p.kill()
	last := p.From - 1
	r.h.mu.Lock()
	for _, rec := range r.h.all {
		var n int
		if rec.What == published && rec.Session == "" && rec.by == p.Name {
			if _, err := fmt.Sscanf(rec.ID[strings.LastIndexByte(rec.ID, '-')+1:], "%d", &n); err == nil {
				last = max(last, n)
			}
		}
	}
	r.h.mu.Unlock()
	p.Count -= last + 1 - p.From
	p.From = last + 1
	if p.Count > 0 {
		r.startPublisher(p)
	}
}

// heals waits until the streams have all their replicas again.
func (r *run) heals() {
	for _, stream := range []string{"JITNEY_EVT", "JITNEY_RETRY", "JITNEY_DLQ", "KV_JITNEY_STATE"} {
		require.True(r, r.s.healthy(r.js, stream, 2*time.Minute), "%s does not heal", stream)
	}
}

// finish lets everything come to its end, and checks the history.
func (r *run) finish() {
	for _, p := range r.publishers {
		require.True(r, p.wait(time.Duration(p.events(r))*r.every*20+2*time.Minute), "%s does not end", p.Name)
	}
	var missing []string
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if missing = r.h.unfinished(groups); allPoison(missing) {
			break
		}
	}
	r.readStream()
	r.readDeadLetters()
	r.h.report(r.T)
	require.NotZero(r, r.h.count(published))
	require.NotZero(r, r.h.count(answered))
	bad := r.h.violations(groups)
	if len(bad) > 32 {
		bad = append(bad[:32], fmt.Sprintf("and %d more", len(bad)-32))
	}
	require.Empty(r, bad)
}

func (p *publisher) events(r *run) int { return r.plan.events }

func allPoison(keys []string) bool {
	for _, k := range keys {
		if !poison(k) {
			return false
		}
	}
	return true
}

// readStream finds what is stored, in order.
func (r *run) readStream() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	st, err := r.js.Stream(ctx, "JITNEY_EVT")
	require.NoError(r, err)
	left := int(st.CachedInfo().State.Msgs)
	c, err := r.js.OrderedConsumer(ctx, "JITNEY_EVT", jetstream.OrderedConsumerConfig{})
	require.NoError(r, err)
	var wg sync.WaitGroup
	wg.Add(left)
	cc, err := c.Consume(func(m jetstream.Msg) {
		defer wg.Done()
		if !strings.HasSuffix(m.Subject(), "."+(Done{}).MessageName()) {
			return
		}
		var e Done
		if err := json.Unmarshal(m.Data(), &e); err != nil {
			r.Errorf("%s: %v", m.Subject(), err)
			return
		}
		meta, err := m.Metadata()
		if err != nil {
			r.Error(err)
			return
		}
		// Behind everything else, in the order of the stream.
		at := int64(1)<<62 + int64(meta.Sequence.Stream)
		r.h.add("test", record{What: stored, ID: e.ID, Group: e.Publisher, Text: fmt.Sprint(e.N), At: at})
	})
	require.NoError(r, err)
	wg.Wait()
	cc.Stop()
}

// readDeadLetters finds what was given up.
func (r *run) readDeadLetters() {
	_, b, err := actorSettings{}.open(must(json.Marshal(actorSettings{Name: "reader", URLs: r.s.urls()})))
	require.NoError(r, err)
	defer b.Close(context.Background())
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		r.h.mu.Lock()
		for i := len(r.h.all) - 1; i >= 0; i-- {
			if r.h.all[i].What == buried {
				r.h.all = append(r.h.all[:i], r.h.all[i+1:]...)
			}
		}
		r.h.mu.Unlock()
		for d, err := range b.DeadLetters().All(context.Background(), bus.DeadLetterQuery{}) {
			require.NoError(r, err)
			if d.Kind == bus.KindEvent {
				r.h.add("test", record{What: buried, ID: d.MessageID, Group: d.Group, Attempt: d.Attempts, Text: d.Err, At: 1<<62 - 1})
			}
		}
		if len(r.h.unfinished(groups)) == 0 || time.Now().After(end) {
			return
		}
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}
