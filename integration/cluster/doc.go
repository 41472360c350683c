// Package cluster has no code: its tests run the bus on three NATS servers with three
// replicas, every server, publisher and handler a process of its own, and break them:
// kill, stop, step down, restart, cut, stall, part, fill the disk, delete consumers and
// switch JetStream off. What every process has seen is
// written down, and checked afterwards against what is promised.
//
//	go test ./integration/cluster                              a short run
//	go test ./integration/cluster -run Soak -soak -timeout 2h  a long one
//	go test ./integration/cluster -seed 7                      the faults of a seed
//	go test ./integration/cluster -run Faults -faults "part leader,cut"
package cluster
