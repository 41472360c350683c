package memory_test

import (
	"testing"
	"time"

	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
	"github.com/jitney-bus/jitney/transport/transporttest"
)

// backend opens the one transport that there can be.
func backend(c memory.Config) func(*testing.T) func(*testing.T) transport.Transport {
	return func(*testing.T) func(*testing.T) transport.Transport {
		tr := memory.New(c)
		return func(*testing.T) transport.Transport { return tr }
	}
}

var features = transporttest.Features{
	Bubble: true, SingleProcess: true,
	MaxEvents: 10_000, MaxDeadLetters: 1_000, Sessions: 10_000, DedupWindow: 2 * time.Minute,
}

func TestSuite(t *testing.T) {
	transporttest.Run(t, transporttest.Config{Backend: backend(memory.Config{}), Features: features})
}

func TestSuiteCodec(t *testing.T) {
	f := features
	f.MaxBody = 1<<20 - 64<<10
	f.MaxDeadLetters, f.DropDeadLetters, f.DeadLetterMaxAge = 200, true, 2*time.Hour
	transporttest.Run(t, transporttest.Config{Features: f, Backend: backend(memory.Config{Codec: codec.JSON,
		MaxDeadLetters: f.MaxDeadLetters, DropDeadLetters: true, MaxDeadLetterAge: f.DeadLetterMaxAge})})
}

func TestSuiteRealTime(t *testing.T) {
	f := features
	f.Bubble, f.Parallel, f.AckWait = false, true, 400*time.Millisecond
	f.DedupWindow, f.MaxEvents, f.MaxBody = time.Second, 1_000, 64<<10
	transporttest.Run(t, transporttest.Config{Features: f, Backend: backend(memory.Config{
		Codec: codec.JSON, DedupWindow: f.DedupWindow, MaxEvents: f.MaxEvents, MaxBody: f.MaxBody})})
}
