// Package load puts a bus under load for as long as it is told, and checks that
// nothing is lost and that memory and goroutines stay where they are. The figures
// that it prints are in docs/benchmarks.md:
//
//	go test ./integration/load -v -load 3m
package load
