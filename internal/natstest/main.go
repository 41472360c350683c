// Package natstest runs NATS servers for tests: inside a testing/synctest
// bubble, where hours of redelivery, schedules and leases pass in milliseconds,
// and on a loopback port, where servers stop and come back.
//
// Bubbles rest on two internals of nats-server and nats.go, both dealt with
// here and nowhere else:
//
//   - the server's stores share one goroutine of the process that keeps the
//     time. If a bubble started it, the bubble's clock would never advance.
//     [Bubble] starts it outside.
//   - nats.go shares a pool of timers, used by Flush and Drain. A timer must not
//     cross into a bubble or out of it. [Bubble] empties the pool on both sides,
//     and nothing else may run meanwhile: a package that uses Bubble has no
//     parallel tests.
package natstest

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"

	"github.com/nats-io/nats-server/v2/server/ats"
	"go.uber.org/goleak"
)

// SourceSetup is a goroutine of the server that its shutdown does not wait for: it
// asks another stream for its messages and gives up after half a minute.
const SourceSetup = "github.com/nats-io/nats-server/v2/server.(*stream).trySetupSourceConsumer.func3"

// MainOfBubbles is Main for a package whose tests run in bubbles, one after the
// other. It gives them one processor: a bubble seldom has work for two, and what
// the second does instead, marking garbage and waking threads, is a third of what
// the tests cost and lost to the other packages. GOMAXPROCS in the environment and
// the flag -cpu say otherwise; benchmarks and fuzzing have all processors.
func MainOfBubbles(m *testing.M) {
	flag.Parse()
	if os.Getenv("GOMAXPROCS") == "" && !given("test.bench") && !given("test.fuzz") {
		runtime.GOMAXPROCS(1)
	}
	Main(m)
}

func given(name string) bool { return flag.Lookup(name).Value.String() != "" }

// SideBySide lets n tests that wait in real time run in parallel, unless the flag
// -parallel says otherwise. TestMain calls it before Main.
func SideBySide(n int) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = flag.Set("test.parallel", strconv.Itoa(n))
	}
}

// Main runs the tests of a package and fails if one left a goroutine behind. It is
// the whole of TestMain and does not return. A bubble that forgets Outside would
// stand still, so it does that part for all of them.
func Main(m *testing.M) {
	ats.Register()
	code := m.Run()
	ats.Unregister()
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreAnyFunction(SourceSetup)); err != nil {
			fmt.Fprintf(os.Stderr, "goroutines left behind: %v\n", err)
			code = 1
		}
	}
	os.Exit(code)
}
