// Package health answers the probes of Kubernetes and its like for a bus.
//
//	probes := health.New(b, health.Config{})
//	defer probes.Close()
//	http.ListenAndServe(":8080", probes)
//
// /livez says that the process lives, and nothing else: a broker that is down is no
// reason to restart who uses it. /readyz says whether the process should be sent
// work: it is connected, JetStream answers, its streams are there, and the bus is
// neither draining nor closed. It answers from what was found out last, at most
// Config.Interval ago, and asks nobody, however often it is called; that the bus
// drains shows at once.
//
// Both answer 200 with "ok", or 503 with what fails. With ?verbose they list every
// check, and with "Accept: application/json" they answer with a bus.Health. The texts
// may name servers and streams: do not show them to the world.
package health

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jitney-bus/jitney/bus"
)

// Bus is what is probed: a *bus.Bus.
type Bus interface {
	Health(ctx context.Context) bus.Health
	Draining() bool
}

// Config configures Probes. The zero value works.
type Config struct {
	// Interval is how often the bus is looked at. Default 5 s.
	Interval time.Duration
	// Timeout bounds each look. Default and most 2 s, which is what bus.Health takes.
	Timeout time.Duration
}

const (
	defaultInterval = 5 * time.Second
	defaultTimeout  = 2 * time.Second
)

// Probes is an http.Handler for /livez and /readyz; any other path is 404. New makes
// it. It is safe for concurrent use.
type Probes struct {
	b    Bus
	cfg  Config
	last atomic.Pointer[bus.Health]
	mux  *http.ServeMux
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// New begins to look at b. Until the first look is done, within Config.Timeout, it
// is not ready. Close the Probes when the process ends, after the bus, so that
// readiness fails while it closes.
func New(b Bus, cfg Config) *Probes {
	if cfg.Interval <= 0 {
		cfg.Interval = defaultInterval
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	p := &Probes{b: b, cfg: cfg, mux: http.NewServeMux()}
	p.mux.Handle("GET /livez", p.Live())
	p.mux.Handle("GET /readyz", p.Ready())
	var ctx context.Context
	ctx, p.stop = context.WithCancel(context.Background())
	p.wg.Go(func() { p.run(ctx) })
	return p
}

// Close stops looking, and waits for the look under way. /readyz then fails, once
// what was found out is too old.
func (p *Probes) Close() {
	p.stop()
	p.wg.Wait()
}

func (p *Probes) run(ctx context.Context) {
	t := time.NewTicker(p.cfg.Interval)
	defer t.Stop()
	for {
		p.look(ctx)
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *Probes) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	h := p.b.Health(ctx)
	if ctx.Err() != context.Canceled { // Close says nothing of the bus
		p.last.Store(&h)
	}
}

// ServeHTTP implements http.Handler.
func (p *Probes) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.mux.ServeHTTP(w, r) }

// Live returns the handler of /livez alone, for a path of your own.
func (p *Probes) Live() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		write(w, r, "livez", bus.Health{Condition: bus.OK, Time: time.Now(),
			Checks: []bus.HealthCheck{{Name: "process", Condition: bus.OK}}})
	})
}

// Ready returns the handler of /readyz alone, for a path of your own.
func (p *Probes) Ready() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { write(w, r, "readyz", p.Health()) })
}

// Health returns what /readyz answers from: what the bus said last, or that this is
// too old, or that it drains. It asks nobody.
func (p *Probes) Health() bus.Health {
	h := bus.Health{Condition: bus.OK, Time: time.Now()}
	last := p.last.Load()
	switch {
	case last == nil:
		h = with(h, "probe", "the bus has not been looked at yet")
	case time.Since(last.Time) > 3*p.cfg.Interval+p.cfg.Timeout:
		h = with(h, "probe", fmt.Sprintf("the bus was looked at for the last time %v ago", time.Since(last.Time).Round(time.Second)))
	default:
		h = *last
	}
	if p.b.Draining() && h.Ready() {
		h = with(h, "draining", "the bus drains: it takes work, and is about to close")
	}
	return h
}

// with returns h with one more check, which fails.
func with(h bus.Health, name, text string) bus.Health {
	h.Condition = bus.Unavailable
	h.Checks = append(h.Checks[:len(h.Checks):len(h.Checks)], bus.HealthCheck{Name: name, Condition: bus.Unavailable, Text: text})
	return h
}

func write(w http.ResponseWriter, r *http.Request, probe string, h bus.Health) {
	status := http.StatusOK
	if !h.Ready() {
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(h) // whoever asked is gone
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, verbose := r.URL.Query()["verbose"]
	if h.Ready() && !verbose {
		_, _ = fmt.Fprintln(w, "ok")
		return
	}
	for _, c := range h.Checks {
		sign := "+"
		switch c.Condition {
		case bus.Unavailable:
			sign = "-"
		case bus.Degraded:
			sign = "!"
		}
		text := ""
		if c.Text != "" {
			text = ": " + strings.ReplaceAll(c.Text, "\n", "; ")
		}
		_, _ = fmt.Fprintf(w, "[%s]%s %s%s\n", sign, c.Name, c.Condition, text)
	}
	_, _ = fmt.Fprintf(w, "%s %s\n", probe, h.Condition)
}
