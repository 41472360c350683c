package bus

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/jitney-bus/jitney/transport"
)

// A queue that drops its oldest, against a model: what is stored of a key is in
// order and leaves nothing out that was queued behind something that was not stored,
// and what the queue remembers is bounded by what it holds.
func TestSendQueueModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{
			QueueSize: rapid.IntRange(1, 6).Draw(t, "capacity"), BatchSize: rapid.IntRange(1, 4).Draw(t, "batch"), BatchBytes: 1 << 20,
			Backpressure: Backpressure{Strategy: rapid.SampledFrom([]Strategy{DropOldest, RejectNew}).Draw(t, "strategy")},
		}
		cfg.Backpressure.setDefaults()
		b := &Bus{cfg: cfg}
		q := newSendQueue(&b.cfg, newPressure(b))
		type event struct {
			p      *Pending
			lastAt uint64 // of q, when it was not stored
			fate   string
		}
		var all []*event
		of := map[*Pending]*event{}
		var batch []*Pending // taken and without a result
		end := func(p *Pending, fate string) {
			e := of[p]
			require.Empty(t, e.fate, "one result each")
			e.fate, e.lastAt = fate, q.last
			if fate == "dropped" {
				e.lastAt-- // for the one that was queued afterwards
			}
		}
		store := func(fails bool) {
			if len(batch) == 0 {
				return
			}
			p := batch[0]
			batch = batch[1:]
			switch {
			case p.m.Key != "" && q.brokenBy(p) != "":
				end(p, "held back")
			case fails:
				if p.m.Key != "" {
					q.failed(p)
				}
				end(p, "failed")
			default:
				end(p, "stored")
			}
			if len(batch) == 0 {
				q.mend(p.number)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				key := rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "key")
				p := &Pending{m: &transport.Message{Key: key}, id: fmt.Sprint(len(all))}
				dropped, _, err := q.push(t.Context(), p)
				if err != nil {
					require.True(t, errors.Is(err, ErrRejected) && cfg.Backpressure.Strategy == RejectNew)
					return
				}
				all = append(all, &event{p: p})
				of[p] = all[len(all)-1]
				if dropped != nil {
					require.Equal(t, DropOldest, cfg.Backpressure.Strategy)
					end(dropped, "dropped")
				}
			},
			"take": func(t *rapid.T) {
				if len(batch) == 0 {
					batch, _, _ = q.take(time.Now().Add(time.Hour))
				}
			},
			"store": func(*rapid.T) { store(false) },
			"fail":  func(*rapid.T) { store(true) },
			"": func(t *rapid.T) {
				s := q.gauge.stats()
				require.LessOrEqual(t, q.len(), q.capacity)
				require.Equal(t, q.len(), s.Size)
				require.EqualValues(t, len(all), s.Enqueued)
				require.Equal(t, s.Enqueued, s.Dequeued+s.Dropped+uint64(s.Size))
				require.LessOrEqual(t, len(q.broken), q.capacity+q.size)
				require.LessOrEqual(t, len(q.keys), q.len())
				require.LessOrEqual(t, len(q.gaps), len(q.keys))
			},
		})
		for len(batch) > 0 || q.len() > 0 {
			if len(batch) == 0 {
				batch, _, _ = q.take(time.Now().Add(time.Hour))
			}
			store(false)
		}
		require.Empty(t, q.broken)
		require.Empty(t, q.keys)
		require.Empty(t, q.gaps)
		for i, e := range all {
			require.NotEmpty(t, e.fate)
			if e.p.m.Key == "" || e.fate == "stored" || e.fate == "held back" {
				continue
			}
			for _, later := range all[i+1:] {
				if later.p.m.Key == e.p.m.Key && later.p.number <= e.lastAt {
					require.NotEqual(t, "stored", later.fate, "event %s after %s, which was %s", later.p.id, e.p.id, e.fate)
				}
			}
		}
		for _, e := range all { // and nothing else is held back
			if e.fate != "held back" {
				continue
			}
			held := false
			for _, before := range all {
				held = held || before.p.number < e.p.number && before.p.m.Key == e.p.m.Key &&
					(before.fate == "failed" || before.fate == "dropped") && e.p.number <= before.lastAt
			}
			require.True(t, held, "event %s", e.p.id)
		}
	})
}
