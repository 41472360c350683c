// Package middleware has the common middleware for a bus: values of
// bus.Middleware, which wrap what sends a message or what handles it.
//
//	var times middleware.Timings
//	b, err := bus.New(tr, bus.Config{
//		Sending:   []bus.Middleware{middleware.RequireSession()},
//		Receiving: []bus.Middleware{middleware.Logging(log), times.Middleware},
//	})
//	err = bus.Handle(ctx, b, charge, bus.WithMiddleware(
//		middleware.Retry(resilience.Retry{}, middleware.OnlyIf(isDeadlock)),
//		middleware.Timeout(2*time.Second),
//	))
//
// # Chains and order
//
// A bus has two chains. Config.Sending wraps every Execute and Publish, in the
// sender's process; Config.Receiving wraps every run of a handler, and
// bus.WithMiddleware that of one handler, inside Config.Receiving. The first in a
// list is outermost: it sees a message first and its outcome last, and what it
// does is done once around all that the later ones do. Timeout before Retry bounds
// all runs together, Retry before Timeout each of them.
//
// A good order is the one of this table, where each line is outside those below it:
//
//	                   chain      what for
//	Recover            both       report panics, of the handler and of the middleware inside it
//	Correlation        both       so that everything inside it finds the values in its context
//	Logging            both       each message with its outcome; inside Retry, each run
//	Timings            both       the same with times
//	RequireSession     both       refused messages take nothing from the limits below
//	Validate           both
//	ValidateType       both
//	Deduplicate        receiving  events that are not handled again take no slot and no token
//	RateLimit          both       how many a second
//	Limit              both       how many at once
//	Retry              both       commands on the receiving side; what was not sent on the sending side
//	Timeout            both       each run; before Retry, all of them
//	Commands, Events   both       apply another one to one kind of message
//
// A middleware has one state, however often it is registered: one Limit(10) in
// Config.Receiving lets 10 messages of the whole bus in, and two handlers with the
// same value of it share the 10. Make a new one for each handler that shall have
// its own.
//
// What waits on the receiving side, as RateLimit and Limit do, holds one of its
// handler's own slots (bus.WithConcurrency). What refuses an event there makes it
// fail, which counts as an attempt.
//
// A batch of a bus.SubscribeBatch is one message to its chain: one line of Logging,
// one time, one turn of a limit, and Correlation has no value for it, as each event
// may have another. Validate, its like, and Deduplicate look at each event, and take
// out of the batch what is not to be handled.
//
// For PublishAll and PublishAsync the sending chain ends where the event is
// collected or queued, before it is stored: Logging and Timings see it sent then,
// and Retry has nothing to repeat.
//
// # Settings that are wrong
//
// No constructor panics or returns an error, so that each fits into a list. One
// that was given a bad setting, such as a negative size or a nil function, returns
// a middleware that cannot be built: bus.New, bus.Handle and bus.Subscribe return
// an error of bus.CodeInvalid that names the place in the list, the constructor and
// the rule:
//
//	new: Config.Receiving[1] cannot be built: middleware.Timeout: -1s is not positive
//
// # Errors
//
// What a middleware refuses is an error with a code that reaches the caller of a
// command: bus.CodeInvalid, or bus.CodeBusy if the message may be sent again; the
// handler has not run. Everything here is safe for concurrent use.
package middleware
