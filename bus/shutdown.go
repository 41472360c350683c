package bus

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// closeGrace is how long Close waits after it has cancelled the handlers that
// still ran.
const closeGrace = time.Second

// close ends the scope: events first, then commands, because a finishing event
// handler may execute one. Handlers run with live contexts until ctx ends and
// are then cancelled. Its error names those that still ran after the grace.
func (s *scope) close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	readers := slices.AppendSeq(slices.Collect(maps.Values(s.readers)), maps.Keys(s.privates))
	s.mu.Unlock()
	handlers := s.handlers()

	// Past ctx's end, the same waits go on for the grace, with cancelled handlers.
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		s.stop(ErrStopped)
		time.AfterFunc(closeGrace, cancel)
	})
	defer stop()

	each(readers, func(r *reader) []string { r.stopIntake(hard); return nil })
	stuck := each(readers, func(r *reader) []string { return r.close(hard) })
	stuck = append(stuck, each(handlers, func(h *commandHandler) []string { return h.close(hard) })...)
	s.stop(ErrStopped)
	if len(stuck) > 0 {
		slices.Sort(stuck)
		return errorf(CodeTimeout, "close", "", "handlers that ignored their cancelled context still run: %s",
			strings.Join(stuck, ", "))
	}
	return nil
}

// each runs f for every item at once and collects what it returns.
func each[T any](items []T, f func(T) []string) []string {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all []string
	for _, item := range items {
		wg.Go(func() {
			names := f(item)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, names...)
		})
	}
	wg.Wait()
	return all
}
