package health_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/health"
	"github.com/jitney-bus/jitney/transport/memory"
)

func ExampleProbes() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "accounts"})
	must(err)
	probes := health.New(b, health.Config{Interval: time.Millisecond})
	defer probes.Close()
	ask := func(path string) string {
		w := httptest.NewRecorder()
		probes.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return fmt.Sprint(w.Code, " ", w.Body)
	}
	for !probes.Health().Ready() { // until it has been looked at
		time.Sleep(time.Millisecond)
	}
	fmt.Print(ask("/readyz"))
	fmt.Print(ask("/readyz?verbose"))

	must(b.Close(ctx))
	fmt.Println(ask("/readyz")[:3])
	fmt.Print(ask("/livez"))
	// Output:
	// 200 ok
	// 200 [+]bus ok
	// [+]readers ok
	// [+]lease ok
	// [+]transport ok: in memory: nothing survives the process
	// readyz ok
	// 503
	// 200 ok
}

// In a program: a server for the probes, which ends after the bus.
func ExampleNew() {
	// doc:probes
	run := func(ctx context.Context, b *bus.Bus) error {
		probes := health.New(b, health.Config{})
		defer probes.Close()
		server := &http.Server{Addr: ":8080", Handler: probes} // /livez and /readyz
		go server.ListenAndServe()
		defer server.Close()
		return b.Run(ctx) // not ready, Config.DrainDelay, then Close
	}
	// doc:end
	_ = run
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
