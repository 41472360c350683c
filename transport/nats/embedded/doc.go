// Package embedded runs a NATS server with JetStream inside the process, so
// that a program needs no other service.
//
// A server without a Dir keeps everything in memory and is gone after Shutdown.
// With a Dir it keeps its streams there, locks the folder against a second
// server, and starts where the last one stopped. Connections go through an
// in-memory pipe; Listen opens a loopback port as well, for other processes of
// this machine. Nothing else is opened: no routes, leaf nodes, monitoring,
// WebSocket or MQTT, and no signal is handled.
//
// What a Dir keeps survives the end of the process, killed or not, in every
// setting. Whether it survives a power failure is what Config.SyncAlways says.
package embedded
