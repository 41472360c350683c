package session_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/integration/internal/world"
)

// Sessions with ids made to be mistaken for one another come and go in several
// processes; each message says where it was sent, and each handler compares.
func TestNothingCrossesSessions(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			world.Everywhere(t, func(w *world.World) { crossing(w, seed) })
		})
	}
}

func crossing(w *world.World, seed uint64) {
	ctx := w.Context()
	ids := []string{"a", "A", "a.b", "a.*", "*", ">", "_", "a b", "a/b", "ä", "~61", "YQ", strings.Repeat("x", 128)}
	var processes []*bus.Bus
	for range 3 {
		processes = append(processes, w.Bus(bus.Config{}))
	}
	require.NoError(w, bus.Handle(ctx, processes[0], func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
		if id := bus.SessionFrom(ctx); id != c.Name {
			w.Errorf("a command of %q arrived on the bus with session %q", c.Name, id)
		}
		return world.UserID(c.Name), nil
	}))
	busHeard := world.NewRecord[string]()
	_, err := bus.Subscribe(ctx, processes[1], func(ctx context.Context, e world.UserCreated) error {
		if id := bus.SessionFrom(ctx); id != e.Note {
			w.Errorf("an event of %q arrived on the bus with session %q", e.Note, id)
		}
		busHeard.Add(e.Note)
		return nil
	})
	require.NoError(w, err)

	var mu sync.Mutex
	sent, heard := 0, 0
	var wg sync.WaitGroup
	for p, b := range processes {
		for i, id := range ids {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(seed, uint64(p*100+i)))
				for range 5 {
					time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
					err := bus.InSession(ctx, b, id, func(ctx context.Context, s *bus.Session) error {
						mine := 0
						if r.IntN(2) == 0 {
							if err := bus.Handle(ctx, s, func(ctx context.Context, c world.CreateUser) (world.UserID, error) {
								if c.Name != id || bus.SessionFrom(ctx) != id {
									w.Errorf("a command of %q arrived in %q as of %q", c.Name, id, bus.SessionFrom(ctx))
								}
								return world.UserID(c.Name), nil
							}); err != nil {
								return err
							}
						}
						if _, err := bus.Subscribe(ctx, s, func(ctx context.Context, e world.UserCreated) error {
							if e.Note != id || bus.SessionFrom(ctx) != id {
								w.Errorf("an event of %q arrived in %q as of %q", e.Note, id, bus.SessionFrom(ctx))
							}
							mu.Lock()
							defer mu.Unlock()
							heard++
							if e.ID == world.UserID(fmt.Sprint(p)) {
								mine++
							}
							return nil
						}); err != nil {
							return err
						}
						n := r.IntN(5)
						for range n {
							if err := bus.Publish(ctx, b, world.UserCreated{ID: world.UserID(fmt.Sprint(p)), Note: id}); err != nil {
								return err
							}
							got, err := bus.Execute(ctx, b, world.CreateUser{Name: id})
							if err != nil {
								return err
							}
							if got != world.UserID(id) {
								w.Errorf("the result of %q arrived in %q", got, id)
							}
							time.Sleep(time.Duration(r.IntN(100)) * time.Millisecond)
						}
						if err := s.Close(ctx); err != nil {
							return err
						}
						mu.Lock()
						defer mu.Unlock()
						sent += n
						if mine < n {
							w.Errorf("session %q of process %d heard %d of its own %d events before it closed", id, p, mine, n)
						}
						return nil
					})
					if err != nil {
						w.Errorf("session %q of process %d: %v", id, p, err)
					}
				}
			})
		}
	}
	wg.Wait()
	require.Len(w, busHeard.Wait(w, sent), sent)
	require.GreaterOrEqual(w, heard, sent)
	all, err := processes[0].Sessions(ctx)
	require.NoError(w, err)
	require.Empty(w, all)
}
