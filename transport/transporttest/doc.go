// Package transporttest is the conformance suite of transport.Transport: each
// sentence of the seam's contract is a named case. A driver that passes it
// carries the bus.
//
// A driver runs it from one test of its own:
//
//	func TestSuite(t *testing.T) {
//		transporttest.Run(t, transporttest.Config{
//			Backend: func(t *testing.T) func(t *testing.T) transport.Transport {
//				broker := startBroker(t) // empty; stopped by t.Cleanup
//				return func(t *testing.T) transport.Transport {
//					tr, err := mydriver.Open(t.Context(), broker.Addr)
//					require.NoError(t, err)
//					return tr
//				}
//			},
//			Features: transporttest.Features{MaxBody: 1 << 20},
//		})
//	}
//
// One case runs with
//
//	go test -run 'TestSuite/NakDelay'
//
// # Time
//
// Leases, delays and TTLs take time. With Features.Bubble every case runs in a
// testing/synctest bubble of its own: waits are realistic (AckWait 30 s, delays
// of minutes and hours) and cost nothing. It needs a driver whose goroutines
// block on channels, timers and in-memory pipes only, and a backend that lives
// in the bubble too. Without it the same cases run in real time with an AckWait
// of one second, so that the whole suite takes a minute or so; Features.AckWait
// makes it shorter.
//
// No case asserts an upper bound on wall-clock time. What must not happen early
// is compared with the clock; what must happen has a limit far above what any
// driver needs.
package transporttest
