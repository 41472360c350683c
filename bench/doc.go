// Package bench has no code of its own: its benchmarks do the same work with
// nats.go alone, with Watermill and with jitney, in one run. It is a module by
// itself, so that peers stay out of the module graph of jitney's users.
//
//	go test -run '^$' -bench . -count 6 | tee new.txt
//	go tool -modfile=../tools/go.mod benchstat -col /lib new.txt   # ratios
//	go run ./plot <new.txt                                         # pictures
//
// Each name ends in lib=…; what stands before it names the work:
//
//	Command      a request and its reply, over NATS, n in flight
//	Publish      a durable event, over NATS: n in flight, or in batches of 500
//	Consume      events that are stored already: decoded, handled, settled, n workers
//	Payload      a durable event of so many bytes
//	Local        a command or an event to n listeners inside one process
//	Scale        how the cost of an event grows with names, groups and sessions
//
// All of NATS goes over loopback TCP to one server of this process, with streams
// in files that are configured alike. All sides encode and decode the same JSON.
// The figure to compare is cpu-ns/op, the processor time of everybody including
// the server, where the machine is shared with other work.
package bench
