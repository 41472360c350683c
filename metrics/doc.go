// Package metrics shows a bus to Prometheus.
//
//	m, err := metrics.Register(prometheus.DefaultRegisterer, b, metrics.Config{})
//	defer m.Close()
//
// Counters and most gauges are read from Bus.Stats when they are scraped, so they
// cost a message nothing beyond what the bus counts anyway. Durations are told to
// histograms that were looked up when the handler was registered: two readings of the
// clock, one observation and no allocation for each run (docs/benchmarks.md).
//
// # Names
//
// The names are fixed; Config.Namespace puts a prefix before them.
//
//   - counters: events_published_total, events_processed_total,
//     events_failed_total, commands_sent_total, commands_processed_total,
//     commands_failed_total. Processed counts the runs that succeeded, failed the
//     others: together they are the attempts. Also events_rejected_total (that
//     were not stored), command_errors_total (calls of Execute that returned one),
//     and of both kinds …_retried_total and …_dead_lettered_total, of events
//     …_redelivered_total, …_returned_total and …_filtered_total.
//   - histograms, in seconds: event_processing_duration_seconds,
//     command_processing_duration_seconds; event_lag_seconds (from when an event was
//     published, or was due, to its first run) and event_dwell_seconds (until a
//     handler was done with it, retries included). They have classic buckets, and
//     native ones for a Prometheus that takes them.
//   - gauges: queue_size, backpressure_active, circuit_breaker_state (0 closed, 1
//     open, 2 half-open), dead_letter_queue_size, active_sessions,
//     registered_handlers; also queue_capacity, open_sessions (of this process),
//     …_in_flight, …_retrying, dead_letter_queue_oldest_seconds, and of each group
//     group_pending_events (its lag), group_unsettled_events and
//     group_redelivered_events.
//   - of queues and breakers, counters: queue_dropped_total, queue_rejected_total,
//     backpressure_raised_total, circuit_breaker_opened_total.
//
// Of these the dead_letter_queue_…, the group_… and active_sessions are of all
// processes that share the transport: every process
// shows the same, so aggregate them with max, not with sum. They are asked for in
// the background every Config.PollInterval, never while somebody scrapes, and are
// left out when the last answer is too old.
//
// # Labels
//
// type is a message's wire name; group, handler and kind are as in bus.Meta, queue is
// as in bus.QueueStats; reason is a bus.Code or "refused" (a message that did not
// reach the handler). No label has an id, a session or the text of an error. A bus
// that has more handlers than Config.MaxHandlers shows the rest as "other".
package metrics
