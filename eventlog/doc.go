// Package eventlog records every command and event of a bus, with outcome and
// duration: in a file, with log/slog, or wherever a function of yours puts it.
//
//	file, err := eventlog.OpenFile(eventlog.FileConfig{Path: "bus.jsonl"})
//	l := eventlog.New(file, eventlog.Config{})
//	b, err := bus.New(tr, bus.Config{Observers: []bus.Observer{l.Observe}})
//	…
//	err = b.Close(ctx) // first: what it still does is recorded
//	err = l.Close(ctx) // then: writes what waits, and closes the file
//
// It cannot slow or fail the bus. What happened is copied into a bounded queue,
// without bodies and headers, and written by one goroutine. When the queue is full,
// because the sink is slow or stands still, entries are dropped and counted; a sink
// that fails or panics costs its entries and nothing else. Log.Stats has the
// figures, and Config.Logger is told at most once a minute.
//
// For the last steps in memory, to look at while the program runs, there is
// bus.Config.Journal; for failures only, bus.Config.Logger.
package eventlog
