package health_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/health"
)

// fake is a bus as a test says.
type fake struct {
	looks    atomic.Int64
	failing  atomic.Bool
	hanging  atomic.Bool
	draining atomic.Bool
}

func (f *fake) Health(ctx context.Context) bus.Health {
	f.looks.Add(1)
	h := bus.Health{Condition: bus.OK, Checks: []bus.HealthCheck{
		{Name: "bus", Condition: bus.OK}, {Name: "readers", Condition: bus.Degraded, Text: "slow\nreader"}}}
	if f.hanging.Load() {
		<-ctx.Done()
	}
	if f.failing.Load() || ctx.Err() != nil {
		h.Condition = bus.Unavailable
		h.Checks = append(h.Checks, bus.HealthCheck{Name: "connection", Condition: bus.Unavailable, Text: "down"})
	}
	h.Time = time.Now()
	return h
}

func (f *fake) Draining() bool { return f.draining.Load() }

func get(t *testing.T, h http.Handler, path string, headers ...string) (int, string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"), path)
	return w.Code, w.Body.String()
}

func probes(t *testing.T, f func(t *testing.T, b *fake, p *health.Probes)) {
	synctest.Test(t, func(t *testing.T) {
		b := &fake{}
		p := health.New(b, health.Config{})
		defer p.Close()
		synctest.Wait()
		f(t, b, p)
	})
}

func TestProbes(t *testing.T) {
	probes(t, func(t *testing.T, b *fake, p *health.Probes) {
		for _, path := range []string{"/livez", "/readyz"} {
			code, body := get(t, p, path)
			require.Equal(t, []any{200, "ok\n"}, []any{code, body}, path)
		}
		code, body := get(t, p, "/readyz?verbose")
		require.Equal(t, 200, code)
		require.Equal(t, "[+]bus ok\n[!]readers degraded: slow; reader\nreadyz ok\n", body)

		b.failing.Store(true)
		time.Sleep(6 * time.Second)
		code, body = get(t, p, "/readyz")
		require.Equal(t, 503, code)
		require.Equal(t, "[+]bus ok\n[!]readers degraded: slow; reader\n[-]connection unavailable: down\nreadyz unavailable\n", body)
		code, body = get(t, p, "/livez?verbose")
		require.Equal(t, []any{200, "[+]process ok\nlivez ok\n"}, []any{code, body}, "it never depends on the broker")
		code, body = get(t, p, "/readyz", "Accept", "application/json")
		require.Equal(t, 503, code)
		var h bus.Health
		require.NoError(t, json.Unmarshal([]byte(body), &h))
		require.Equal(t, p.Health().Checks, h.Checks)

		b.failing.Store(false)
		time.Sleep(6 * time.Second)
		code, _ = get(t, p, "/readyz")
		require.Equal(t, 200, code)
	})
}

// However many probes come, the bus is looked at once in each interval.
func TestProbesAskNobody(t *testing.T) {
	probes(t, func(t *testing.T, b *fake, p *health.Probes) {
		for range 1000 {
			get(t, p, "/readyz")
		}
		require.Equal(t, int64(1), b.looks.Load())
		time.Sleep(51 * time.Second)
		require.Equal(t, int64(11), b.looks.Load())
	})
}

// A look that hangs does not keep a probe waiting, and makes what is known too old.
func TestProbesWhileALookHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fake{}
		b.hanging.Store(true)
		p := health.New(b, health.Config{})
		began := time.Now()
		code, body := get(t, p, "/readyz")
		require.Equal(t, 503, code)
		require.Contains(t, body, "not been looked at yet")
		require.Zero(t, time.Since(began))
		b.hanging.Store(false)
		time.Sleep(10 * time.Second)
		code, _ = get(t, p, "/readyz")
		require.Equal(t, 200, code)
		p.Close()
		time.Sleep(time.Minute)
		code, body = get(t, p, "/readyz")
		require.Equal(t, 503, code)
		require.Contains(t, body, "looked at for the last time 1m")
	})
}

func TestProbesSeeADrainAtOnce(t *testing.T) {
	probes(t, func(t *testing.T, b *fake, p *health.Probes) {
		b.draining.Store(true)
		code, body := get(t, p, "/readyz")
		require.Equal(t, 503, code)
		require.Contains(t, body, "[-]draining unavailable")
		code, _ = get(t, p, "/livez")
		require.Equal(t, 200, code)
	})
}

func TestProbesOnOtherPaths(t *testing.T) {
	probes(t, func(t *testing.T, b *fake, p *health.Probes) {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		require.Equal(t, 404, w.Code)
		w = httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/readyz", nil))
		require.Equal(t, 405, w.Code)
		w = httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest(http.MethodHead, "/readyz", nil))
		require.Equal(t, 200, w.Code)
		mux := http.NewServeMux()
		mux.Handle("/healthz", p.Ready())
		code, _ := get(t, mux, "/healthz")
		require.Equal(t, 200, code)
	})
}
