package metrics_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/metrics"
	"github.com/jitney-bus/jitney/transport/memory"
)

type CreateUser struct {
	bus.Command[bus.None]
	Name string
}

func (CreateUser) MessageName() string { return "user.create" }

func createUser(context.Context, CreateUser) error { return nil }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// The metrics of a bus on the registry of the program, which its own /metrics serves.
func ExampleRegister() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "accounts"})
	must(err)
	defer b.Close(ctx)

	reg := prometheus.NewRegistry() // or prometheus.DefaultRegisterer
	m, err := metrics.Register(reg, b, metrics.Config{
		Namespace:   "accounts",
		ConstLabels: prometheus.Labels{"region": "eu"},
	})
	must(err)
	defer m.Close()

	must(bus.HandleNone(ctx, b, createUser))
	must(bus.Do(ctx, b, CreateUser{Name: "alice"}))
	families, err := reg.Gather()
	must(err)
	for _, f := range families {
		if f.GetName() == "accounts_commands_processed_total" {
			fmt.Println(f.GetName(), f.GetMetric()[0].GetCounter().GetValue())
		}
	}
	// Output: accounts_commands_processed_total 1
}

// Without a registry of its own a program serves the bus alone.
func ExampleMetrics_Handler() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "accounts"})
	must(err)
	defer b.Close(ctx)
	mux := http.NewServeMux()

	// doc:register
	m, err := metrics.Register(nil, b, metrics.Config{}) // or a prometheus.Registerer of your own
	// doc:end
	must(err)
	// doc:register
	defer m.Close()
	mux.Handle("GET /metrics", m.Handler())
	// doc:end

	must(bus.HandleNone(ctx, b, createUser))
	must(bus.Do(ctx, b, CreateUser{Name: "alice"}))
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "commands_processed_total") {
			fmt.Print(line)
		}
	}
	// Output: commands_processed_total{handler="accounts",type="user.create"} 1
}

// All metrics as data, for a page of one's own.
func ExampleSnapshot() {
	ctx := context.Background()
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "accounts"})
	must(err)
	defer b.Close(ctx)
	m, err := metrics.Register(nil, b, metrics.Config{}) // measures durations
	must(err)
	defer m.Close()

	must(bus.HandleNone(ctx, b, createUser))
	for range 3 {
		must(bus.Do(ctx, b, CreateUser{Name: "alice"}))
	}
	s := metrics.Snapshot(b)
	fmt.Println("processed", s.Counters["commands_processed_total"].Value)
	h := s.Histograms["command_processing_duration_seconds"]
	fmt.Println("measured", h.Count, "p99 below 1 s:", h.Percentiles["p99"] < 1)
	fmt.Println("handlers", s.Gauges["registered_handlers"].Value)
	// Output:
	// processed 3
	// measured 3 p99 below 1 s: true
	// handlers 1
}
