// Package bus is a typed command and event bus. The same handlers run in one
// process on transport/memory, or in many on transport/nats.
//
// # What you can rely on
//
//  1. Publish returned nil: the event is stored, on as many replicas as the
//     transport is configured for. So is one whose Pending, of PublishAsync, is
//     done without an error.
//  2. Every durable group gets every event of its name at least once, from when
//     the group began and within the retention of the log, whether or not a
//     process of the group was running.
//  3. A failure never vanishes. An event whose handler fails is retried after a
//     delay that grows, then becomes a dead letter, confirmed before the event is
//     settled. What cannot be decoded, what a panic interrupts and what ends its
//     process becomes a dead letter too, and the process lives.
//  4. A command runs on one handler. Its caller gets the result, the handler's
//     error, or an error whose code says whether anything ran. It is sent again
//     only where it is sure that nothing ran, or where it has an idempotency key:
//     then it succeeds once, within Config.IdempotencyWindow. It is run again after
//     a failure only if a retry policy for it says so. One whose handler panicked,
//     or whose retries did not help, is a dead letter that its caller is told of.
//  5. A second handler for a command is refused, in the process and across
//     services.
//  6. A handler that is running keeps its event: it is extended until the handler
//     returns, up to Config.MaxRun. A process that cannot extend it cancels the
//     handler before another process gets the event.
//  7. Close loses nothing. Events that no handler has started go back to their
//     group at once, running handlers finish with live contexts, and a shutdown
//     neither uses up an attempt nor makes a dead letter. What PublishAsync has
//     queued is stored, or has an error that Close tells.
//  8. Memory is bounded: handlers, prefetched events, waiting requests, queued
//     events and the retries of private listeners all have limits.
//  9. No message crosses sessions, whatever their ids. What is registered on a
//     session goes with it; a process that dies, or stands still for longer than
//     its lease, takes its sessions with it, and the others hear of it once.
//  10. A panic in your code is an error, never the end of the process.
//
// # What you may not assume
//
//   - Exactly once. An event may be handled again after a crash, a lost
//     acknowledgement or a redelivery: make handlers idempotent. DerivedID makes
//     what a handler publishes idempotent.
//   - That a command did not run because its caller saw CodeTimeout,
//     CodeCancelled or CodeUnknown. It may have; ask, or send it with
//     WithIdempotencyKey and again under the same key.
//   - That a command with an idempotency key has run once: it succeeds once, and
//     runs again where its process died, or could not reach the store, between the
//     handler's effect and the record of it. Only a handler that writes
//     Meta.IdempotencyKey in the transaction of its effect closes that window.
//   - Order across redelivery. Events of one publisher arrive in order at a
//     handler with WithConcurrency(1), except that one that is retried arrives
//     late. Events of one WithKey are stored in order.
//   - That an event which PublishAsync has queued is stored, before its Pending or
//     Flush says so: the end of the process takes what is queued with it.
//   - That a handler which ignores its context does not overlap with the next run
//     of its event in another process.
//   - Durability beyond what the broker's disks were told to do: see the
//     transport's documentation for when it fsyncs.
//   - That a session keeps others out. An id that is known can be sent to; who may
//     is a matter of the broker's permissions.
//   - That several handlers of one group are atomic: one that succeeded does not
//     run again when another fails, except after a crash. Priorities order them,
//     and only StopPropagation lets one keep the others from an event.
//
// # Commands and events
//
// A command is a struct that embeds [Command] with its result type. [Handle]
// registers its one handler, [Execute] sends it:
//
//	type CreateUser struct {
//		bus.Command[UserID]
//		Name string
//	}
//
//	err := bus.Handle(ctx, b, func(ctx context.Context, c CreateUser) (UserID, error) { … })
//	id, err := bus.Execute(ctx, b, CreateUser{Name: "alice"})
//
// An event is any named type. [Subscribe] adds a listener, [Publish] stores one:
//
//	sub, err := bus.Subscribe(ctx, b, func(ctx context.Context, e UserCreated) error { … })
//	err = bus.Publish(ctx, b, UserCreated{ID: id})
//
// # Sessions
//
// A session is a scope that ends: of a job, a request, a user's visit. [InSession]
// opens one, [Bus.Session] does too and leaves closing to you. The same functions
// take it:
//
//	err := bus.InSession(ctx, b, "import-42", func(ctx context.Context, s *bus.Session) error {
//		_, err := bus.Subscribe(ctx, s, func(ctx context.Context, e RowImported) error { … })
//		…
//		_, err = bus.Execute(ctx, s, ImportFile{Name: "orders.csv"})
//		return err
//	})
//
// A command of a session goes to the session's handler and else to the bus's, an
// event to the session's listeners and to those of the bus. What a handler sends
// is of the session of the message that it handles; [SessionFrom] tells which.
//
// # Batches
//
// [PublishAsync] queues events and stores many with one call; what became of each
// is told by its [Pending], and of all by [Bus.Flush]. [SubscribeBatch] gives a
// handler many at once, for one statement of a database or one file:
//
//	_, err := bus.SubscribeBatch(ctx, b, func(ctx context.Context, events []UserCreated) error {
//		return insert(ctx, events) // or bus.ItemErrors{3: err}, if only one of them has failed
//	}, bus.WithBatchSize(500), bus.WithLinger(time.Second))
//
// Each event keeps its own attempts, retries and dead letter.
//
// # Circuit breakers
//
// With Config.CommandBreaker, Execute fails at once (CodeOpen) while a command's
// handlers fail. With Config.EventBreaker or [WithBreaker] a group whose handlers
// fail pauses in this process: its events wait in the log and use up no attempts,
// until single ones have succeeded. [Bus.Breakers], Config.OnBreaker and the event
// [BreakerChanged] tell of it.
//
// # When more comes than can be handled
//
// Config.Backpressure says what happens when events are published faster than they
// are stored or handled: wait (the default), drop the oldest, reject the new, or go as
// fast as the handlers do. [WithQueue] does it for a private or session listener,
// which Meta.Missed tells of the gap. Durable groups drop nothing, and one that is
// slow holds back no other until the log is full.
//
// # Types and the wire
//
// The result type, the handler's argument and the value sent are checked at
// compile time. On the wire a message is its name, its encoded fields and a few
// headers, so that programs in other languages can take part.
//
// # Seeing what happens
//
// Config.Observers are told of each step of each message as it is taken. With
// Config.Journal the bus keeps the last of them in memory, without bodies and
// headers, and [Bus.Journal] answers with those of one message, or of all that one
// message caused.
//
// [Bus.Stats] returns what each handler has done in this process: runs, failures,
// the last error, what is in flight and what waits for a retry, by session too.
// [Bus.Measure] tells how long each run took.
//
// [Bus.Describe] tells how the bus is put together: every handler with its group,
// priority, retry policy, filters and middleware, as data and as a table.
package bus
