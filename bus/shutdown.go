package bus

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// closeGrace is how long Close waits after it has cancelled the handlers that
// still ran.
const closeGrace = time.Second

// close ends the scope: events first, then what is inside it, then commands,
// because a finishing event handler may execute one. Handlers run with live contexts until ctx ends and
// are then cancelled. Its error names those that still ran after the grace.
func (s *scope) close(ctx context.Context, inside func(context.Context) error) error {
	s.mu.Lock()
	s.closing = true
	readers := slices.AppendSeq(slices.Collect(maps.Values(s.readers)), maps.Keys(s.privates))
	s.mu.Unlock()
	s.stopRetries() // nothing that finishes is to wait for one

	// Past ctx's end, the same waits go on for the grace, with cancelled handlers.
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		s.stop(ErrStopped)
		time.AfterFunc(closeGrace, cancel)
	})
	defer stop()

	each(readers, func(r *reader) []string { r.stopIntake(hard); return nil })
	events := make(chan []string, 1)
	go func() { events <- each(readers, func(r *reader) []string { return r.close(hard) }) }()
	within := inside(hard)
	var stuck []string
	select {
	case stuck = <-events:
		events = nil
	case <-ctx.Done(): // an event handler that is stuck leaves the commands the grace
	}
	stuck = append(stuck, s.closeCommands(hard)...)
	if events != nil {
		stuck = append(stuck, <-events...)
	}
	s.stop(ErrStopped)
	if len(stuck) > 0 {
		slices.Sort(stuck)
		return errors.Join(within, errorf(CodeTimeout, "close", "", "handlers that ignored their cancelled context still run: %s",
			strings.Join(stuck, ", ")))
	}
	return within
}

// closeCommands ends the scope's command handlers and names those that still run
// when ctx ends. A command that finishes may execute others, so they are all open
// to this process's handlers until none runs.
func (s *scope) closeCommands(ctx context.Context) []string {
	hs := slices.DeleteFunc(s.handlers(), func(h *commandHandler) bool { return !h.live.Load() })
	each(hs, func(h *commandHandler) []string { h.stopIntake(ctx); return nil })
	quiet(ctx, hs)
	for _, h := range hs {
		h.live.Store(false)
		s.remove(h)
	}
	quiet(ctx, hs) // what slipped in before
	var stuck []string
	for _, h := range hs {
		if h.slots.taken() > 0 {
			stuck = append(stuck, h.info.name)
		}
	}
	return stuck
}

// quiet waits until no command of hs runs, or until ctx ends.
func quiet(ctx context.Context, hs []*commandHandler) {
	until(ctx, func() bool {
		return !slices.ContainsFunc(hs, func(h *commandHandler) bool { return h.slots.taken() > 0 })
	})
}

// until waits until ok, or until ctx ends. It looks again and again: telling would
// cost every command something, and this only those that are closed.
func until(ctx context.Context, ok func() bool) {
	for wait := time.Millisecond; !ok(); wait = min(2*wait, 20*time.Millisecond) {
		if !sleep(ctx, wait) {
			return
		}
	}
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
