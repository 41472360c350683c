// Package tracing makes OpenTelemetry spans of the messages of a bus, and carries
// their context from process to process in the messages' headers.
//
//	t := tracing.New(tracing.Config{}) // the global tracer provider
//	b, err := bus.New(tr, t.Instrument(bus.Config{Service: "accounts"}))
//
// It uses the API of OpenTelemetry only. Which SDK, sampler and exporter there are
// is the program's to choose; without any, spans cost little and go nowhere.
//
// # Spans
//
// Names and attributes follow the semantic conventions for messaging of
// OpenTelemetry 1.43, which are in development: they may change with a later
// version of this package. messaging.system is "jitney", whatever the transport.
//
//	Span                 Kind      Operation  When
//	execute <command>    client    send       Execute, until there is a result
//	handle <command>     server    process    a run of its handler
//	publish <event>      producer  send       Publish, until the event is stored
//	create <event>       producer  create     PublishAll and PublishAsync, for each event
//	publish <event>      client    send       then, until it is stored; a child of create
//	handle <event>       consumer  process    a run of a handler, also of a batch
//	retry <name>         client    settle     a run has failed and is made again
//	dead-letter <name>   client    settle     a run has failed and its dead letter is stored
//
// The handling of a command is a server's, so that what pairs clients with servers,
// as service graphs do, finds it. An acknowledgement is no span: it would double
// their number and say what the end of the handler's span says. The settle spans
// have no duration; one that fails is in the log of the bus.
//
// Besides those of the conventions, spans have the attributes jitney.handler,
// jitney.attempt, jitney.session, jitney.generation and jitney.delay_ms where there
// is one. A failure is the span's status, with the code as error.type, and an event
// "exception" with the error's text and a panic's stack. Bodies and headers are
// never recorded.
//
// # Parents and links
//
// What a handler does is in its context: the spans of what it sends are children
// of its own. The span of a handler is a child of the one that sent the message, in
// whatever process that was, also when the message comes again; then it has a link
// to the run that failed, where that was in this process. With Config.Links the
// handling of events is a trace of its own that links to the sender's.
//
// A batch links to the senders of its events and begins a trace of its own; so does
// the run of an event that was redriven from the dead letters.
//
// # Cost
//
// A middleware stands in the way of direct calls inside one process: a command
// without any takes a quarter of a microsecond, about 10 times as long with the chains
// alone, 15 times with this package and no SDK, and with an SDK 30 times if it
// samples nothing and 50 times if it samples all, before exporting
// (BenchmarkExecute). Between processes that is little beside the
// network.
package tracing
