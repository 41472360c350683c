// Package process has no code: its tests break real processes, in real time: kill,
// stop, cut, stall.
//
// On one server they kill and stop a member of a service that has sessions open, runs
// a command with an idempotency key, or gets an event that ends its process. On three
// NATS servers with three replicas every server, publisher and handler is a process of
// its own; servers are also asked to step down, parted, robbed of their disk, of
// consumers and of JetStream. What every process has seen is written down, and checked
// afterwards against what is promised.
//
//	go test ./integration/process                              a short run of all
//	go test ./integration/process -run Soak -soak -timeout 2h  a long one of the cluster
//	go test ./integration/process -seed 7                      the faults of a seed
//	go test ./integration/process -run Faults -faults "part leader,cut"
package process
