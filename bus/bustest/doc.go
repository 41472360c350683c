// Package bustest is for the tests of programs that use the bus: a broker with
// buses around it, a record of all that they send and handle, and assertions that
// know when everything is done.
//
//	func TestOrderIsCharged(t *testing.T) {
//		h := bustest.New(t)
//		require.NoError(t, orders.Register(t.Context(), h.Bus))  // the code under test
//		charged := bustest.Stub(h, func(ctx context.Context, c payment.Charge) (payment.Receipt, error) {
//			return payment.Receipt{ID: "r-1"}, nil           // a service that is not here
//		})
//
//		id, err := bus.Execute(t.Context(), h.Bus, orders.Place{Article: "tea", Amount: 2})
//
//		require.NoError(t, err)
//		charged.Where(func(c payment.Charge) bool { return c.Order == id }).One()
//		paid := bustest.Published[orders.Paid](h).One()
//		require.Equal(t, "r-1", paid.Message.Receipt)
//		bustest.DeadLettered[orders.Placed](h).None()
//	}
//
// # What you can rely on
//
//  1. Nothing sleeps and nothing polls. Every assertion first waits until what was
//     sent, and all that its handling sent in turn, is settled, retries included.
//     That is counted, not guessed from a silence: a positive answer is never early,
//     and a negative one ("no such event") costs no time. See Harness.Wait.
//  2. What the buses do is what they do in production: the harness watches the
//     transport, and adds an observer and three middleware. Bodies are encoded and
//     decoded on the memory driver too.
//  3. A test fails for what its author did not think of: a handler that failed, an
//     event that could not be decoded, a bus that did not close, a goroutine that
//     was left behind. See New.
//  4. A test that failed prints the timeline: what caused what, when, by whom, with
//     errors and retries. See Harness.Timeline.
//
// # More than one process
//
// Each bus is a process. Harness.NewBus makes one more; a bus that your own code
// makes and closes joins with
//
//	b, err := bus.New(h.Transport(), h.Join(cfg))
//
// and a goroutine of the test that sends something is counted if Harness.Go starts
// it.
//
// # Things that go wrong
//
// On scripts faults: a handler fails, an event comes twice, an acknowledgement is
// lost, a Publish fails or takes long.
//
//	bustest.On[orders.Placed](h).Nth(2).Fail(errors.New("no space left"))
//
// # Time
//
// In real time a retry takes as long as its policy says. Run puts the test into a
// bubble of fake time (testing/synctest), where Harness.Advance lets hours pass in
// milliseconds. Package natstest does all of this on NATS: the assertions are the
// same.
//
// # What you may not assume
//
//   - That goroutines of your own are waited for. Those that a handler starts and
//     does not wait for are not, unless Harness.Go starts them.
//   - That what other processes do is seen: buses that did not join, clients of the
//     broker that are not ours. What they publish counts from when a bus of the
//     harness is given it.
//   - Whose message caused another if several handlers ran at the same time: the
//     timeline then has both below the event that they handled.
package bustest
