// Package doctest has no code: its test keeps the project's Markdown true.
//
// Each Go block is either a copy or code that parses. A copy says where it is
// from, in a comment on the line above it, and is compared with that place:
//
//	<!-- from examples/quickstart/main.go -->        the whole file
//	<!-- from bus/pump.go#pump -->                   one declaration, with its comment
//	<!-- from internal/doctest/tour/x_test.go#retry -->   a marked region
//
// A region is what stands between the lines "// doc:retry" and "// doc:end",
// without its common indentation. A region that is opened again goes on, so that
// what only the compiler needs can be left out. Any kind of block may be a copy.
// After a change of the code
//
//	go test ./internal/doctest -update
//
// writes the copies anew.
//
// Besides, every relative link and anchor must lead somewhere, every package that
// a shell command names must exist, and docs/wire.md must list the headers and
// codes that the code has.
package doctest
