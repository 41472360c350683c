package bustest_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/bus/bustest"
	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/resilience"
	"github.com/jitney-bus/jitney/transport"
)

var never = bus.Config{Retry: resilience.Retry{MaxRetries: resilience.NoRetries}}

func failing(context.Context, OrderPlaced) error { return errDown }

// What fails a test when it ends, and what does not.
func TestEnd(t *testing.T) {
	const advice = "\nA failure that is meant is asked for with bustest.Failed or DeadLettered, or allowed: see Query."
	fails := func(t testing.TB, h *bustest.Harness) {
		subscribe(t, h.Bus, failing, bus.WithName("mailer"))
		publish(t, h.Bus, OrderPlaced{ID: "o-1"})
	}
	for name, c := range map[string]struct {
		test func(t testing.TB, h *bustest.Harness)
		opts []bustest.Option
		want string // "" if the test passes
	}{
		"nothing": {test: func(testing.TB, *bustest.Harness) {}},
		"a handler's error": {
			test: fails, opts: []bustest.Option{bustest.WithConfig(bus.Config{Retry: resilience.Retry{MaxRetries: 1, Initial: time.Second, Jitter: resilience.NoJitter}})},
			want: `bustest: handlers failed, and no query asked for it:
	order.placed {"ID":"o-1"}: test/mailer: 2 times, at last: mail server down` + advice + `
timeline:
	0s  publish order.placed {"ID":"o-1"}
	0s    failed in test/mailer, attempt 1: mail server down
	0s    waits 1s for test/mailer
	1s    failed in test/mailer, attempt 2: mail server down
	1s    dead letter of test/mailer after attempt 2: mail server down`,
		},
		"a handler's panic": {
			opts: []bustest.Option{bustest.WithConfig(never)},
			test: func(t testing.TB, h *bustest.Harness) {
				subscribe(t, h.Bus, func(context.Context, OrderPlaced) error { panic("oh") })
				publish(t, h.Bus, OrderPlaced{ID: "o-1"})
			},
			want: `bustest: handlers failed, and no query asked for it:
	order.placed {"ID":"o-1"}: test/default: panic: oh` + advice + `
timeline:
	0s  publish order.placed {"ID":"o-1"}
	0s    failed in test/default, attempt 1: panic: oh
	0s    dead letter of test/default after attempt 1: handle order.placed: panic: oh`,
		},
		"a panic in a command": {
			test: func(t testing.TB, h *bustest.Harness) {
				require.NoError(t, bus.Handle(t.Context(), h.Bus, func(context.Context, PlaceOrder) (string, error) { panic("oh") }))
				_, err := bus.Execute(t.Context(), h.Bus, PlaceOrder{ID: "o-1"})
				require.Equal(t, bus.CodePanic, bus.CodeOf(err))
			},
			want: `bustest: handlers failed, and no query asked for it:
	order.place {"ID":"o-1"}: its handler: execute order.place: panic: oh` + advice + `
timeline:
	0s  execute order.place {"ID":"o-1"}: execute order.place: panic: oh
	0s    failed in test: panic: oh
	0s    dead letter of test after attempt 1: handle order.place: panic: oh`,
		},
		"a panic that was asked for": {test: func(t testing.TB, h *bustest.Harness) {
			require.NoError(t, bus.Handle(t.Context(), h.Bus, func(context.Context, PlaceOrder) (string, error) { panic("oh") }))
			_, err := bus.Execute(t.Context(), h.Bus, PlaceOrder{ID: "o-1"})
			require.Error(t, err)
			bustest.Failed[PlaceOrder](h).One()
		}},
		"a command's error": {test: func(t testing.TB, h *bustest.Harness) {
			require.NoError(t, bus.Handle(t.Context(), h.Bus, func(context.Context, PlaceOrder) (string, error) { return "", errDown }))
			_, err := bus.Execute(t.Context(), h.Bus, PlaceOrder{})
			require.Error(t, err, "its caller's to judge")
		}},
		"an event that cannot be decoded": {
			test: func(t testing.TB, h *bustest.Harness) {
				subscribe(t, h.Bus, done[OrderPlaced])
				tr := h.Transport()
				require.NoError(t, tr.Publish(t.Context(), &transport.Message{To: transport.Address{Name: "order.placed"}, ID: "x", Body: []byte("{")}))
				require.NoError(t, tr.Close(t.Context()))
			},
			want: `bustest: handlers failed, and no query asked for it:
	order.placed (not decoded): group test: decode order.placed: ` + jsonError(t) + advice + `
timeline:
	0s  order.placed (not decoded) (sent from outside, or its sender still waits)
	0s    dead letter of group test after attempt 0: decode order.placed: ` + jsonError(t),
		},
		"asked for with Failed": {opts: []bustest.Option{bustest.WithConfig(never)}, test: func(t testing.TB, h *bustest.Harness) {
			fails(t, h)
			bustest.Failed[OrderPlaced](h).One()
		}},
		"asked for with DeadLettered": {test: func(t testing.TB, h *bustest.Harness) {
			fails(t, h)
			require.ErrorIs(t, bustest.DeadLettered[OrderPlaced](h).All()[0].Err, errDown)
		}},
		"another than was asked for": {
			opts: []bustest.Option{bustest.WithConfig(never)},
			test: func(t testing.TB, h *bustest.Harness) {
				fails(t, h)
				publish(t, h.Bus, OrderPlaced{ID: "o-2"})
				bustest.Failed[OrderPlaced](h).Where(func(e OrderPlaced) bool { return e.ID == "o-2" }).One()
			},
			want: `bustest: handlers failed, and no query asked for it:
	order.placed {"ID":"o-1"}: test/mailer: mail server down` + advice + `
timeline:
	0s  publish order.placed {"ID":"o-1"}
	0s    failed in test/mailer, attempt 1: mail server down
	0s    dead letter of test/mailer after attempt 1: mail server down
	0s  publish order.placed {"ID":"o-2"}
	0s    failed in test/mailer, attempt 1: mail server down
	0s    dead letter of test/mailer after attempt 1: mail server down`,
		},
		"allowed by a query": {test: func(t testing.TB, h *bustest.Harness) {
			bustest.Failed[OrderPlaced](h).ByHandler("mailer").Allow()
			fails(t, h)
		}},
		"allowed at all": {test: fails, opts: []bustest.Option{bustest.AllowFailures()}},
		"a script that never happened": {
			test: func(t testing.TB, h *bustest.Harness) {
				bustest.On[OrderPlaced](h).Nth(2).Duplicate()
				bustest.On[OrderPlaced](h).Each().Fail(errDown) // each of none
				publish(t, h.Bus, OrderPlaced{ID: "o-1"})
			},
			want: `bustest: the script never happened: Duplicate of order.placed, number 2
timeline:
	0s  publish order.placed {"ID":"o-1"}`,
		},
		"an error of Close": {
			test: func(t testing.TB, h *bustest.Harness) {
				subscribe(t, h.Bus, func(ctx context.Context, _ OrderPlaced) error { time.Sleep(time.Hour); return nil })
				publish(t, h.Bus, OrderPlaced{})
				time.Sleep(time.Second)
			},
			opts: []bustest.Option{bustest.AllowPending()},
			want: `bustest: close: handlers that ignored their cancelled context still run: order.placed/test/default
timeline:
	0s  publish order.placed {"ID":""}`,
		},
		"a bus that was closed already": {test: func(t testing.TB, h *bustest.Harness) {
			require.NoError(t, h.Bus.Close(t.Context()))
		}},
		"a transport that was not closed": {
			test: func(t testing.TB, h *bustest.Harness) { h.Transport() },
			want: "bustest: the bus on a transport of Harness.Transport is still open: close it before the test ends",
		},
		"what is still on its way": {
			test: func(t testing.TB, h *bustest.Harness) {
				h.Go(func() { time.Sleep(time.Minute) })
			},
			opts: []bustest.Option{bustest.WithTimeout(time.Second)},
			want: `bustest: at the end of the test: not quiet after 1s; AllowPending lets it end all the same
still on its way:
	goroutine of finish_test.go:LINE, for 1s
bustest: the goroutine that Go started at finish_test.go:LINE still runs`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				output, failed := pretendHarness(c.test, c.opts...)
				require.Equal(t, c.want, anyLine.ReplaceAllString(output, "go:LINE"))
				require.Equal(t, c.want != "", failed)
				time.Sleep(2 * time.Hour) // what was left running ends
			})
		})
	}
}

// jsonError is how encoding/json reports half an object.
func jsonError(t *testing.T) string {
	var e OrderPlaced
	err := codec.Decode(codec.JSON, []byte("{"), &e)
	require.Error(t, err)
	return err.Error()
}

// What the test itself found wrong brings the timeline too, once.
func TestTimelineOfATestThatFailed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		output, failed := pretendHarness(func(t testing.TB, h *bustest.Harness) {
			publish(t, h.Bus, OrderPlaced{ID: "o-1"})
			t.Errorf("the test's own")
		})
		require.True(t, failed)
		require.Equal(t, `the test's own
timeline:
	0s  publish order.placed {"ID":"o-1"}`, output)
	})
}

func TestMisuse(t *testing.T) {
	for name, c := range map[string]struct {
		test func(t testing.TB, h *bustest.Harness)
		want string
	}{
		"Advance without fake time": {func(_ testing.TB, h *bustest.Harness) { h.Advance(time.Hour) },
			"bustest: Advance(1h0m0s) needs fake time: use Run instead of New"},
		"Nth of nothing": {func(_ testing.TB, h *bustest.Harness) { bustest.On[OrderPlaced](h).Nth(0) },
			"bustest: Nth(0): messages are counted from 1"},
		"Fail with nil": {func(_ testing.TB, h *bustest.Harness) { bustest.On[OrderPlaced](h).Fail(nil) },
			"bustest: Fail(nil): a handler that returns nil has not failed"},
		"FailPublish with nil": {func(_ testing.TB, h *bustest.Harness) { bustest.On[OrderPlaced](h).FailPublish(nil) },
			"bustest: FailPublish(nil): a Publish that returns nil has not failed"},
		"a bus that cannot be": {func(_ testing.TB, h *bustest.Harness) { h.NewBus(bus.Config{Service: "A B"}) },
			"bustest: new bus: new: Config.Service: \"A B\" is not 1 to 64 characters of [a-z0-9_-]"},
		"a stub of what is handled": {func(t testing.TB, h *bustest.Harness) {
			require.NoError(t, bus.Handle(t.Context(), h.Bus, func(context.Context, Charge) (string, error) { return "", nil }))
			bustest.Stub(h, func(context.Context, Charge) (string, error) { return "", nil })
		}, `bustest: stub: handle payment.charge: command is owned by another service: "test"`},
	} {
		t.Run(name, func(t *testing.T) {
			output, failed := pretendHarness(c.test)
			require.True(t, failed)
			require.Equal(t, c.want, output)
		})
	}
}
