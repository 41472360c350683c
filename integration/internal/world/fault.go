package world

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
)

// Fault is asked about each operation; an error is what the operation returns.
// It may block. op is "request", "serve", "publish", "subscribe", "next", "ack",
// "nak", "release", "term", "extend", "create", "get", "update", "delete" or
// "bury"; what is the name or key that it is about.
type Fault func(ctx context.Context, op, what string) error

// Times limits f to its first n errors.
func Times(n int, f Fault) Fault {
	var left atomic.Int64
	left.Store(int64(n))
	return func(ctx context.Context, op, what string) error {
		if err := f(ctx, op, what); err != nil && left.Add(-1) >= 0 {
			return err
		}
		return nil
	}
}

// Hanging keeps the operations of that name until their ctx ends.
func Hanging(op string) Fault {
	return func(ctx context.Context, o, _ string) error {
		if o != op {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}
}

// Failing fails the operations of that name, every one for "".
func Failing(op string, err error) Fault {
	return func(_ context.Context, o, _ string) error {
		if op == "" || o == op {
			return err
		}
		return nil
	}
}

// FailingStore fails the store's operations on keys with the prefix.
func FailingStore(prefix string, err error) Fault {
	return func(_ context.Context, op, what string) error {
		switch op {
		case "create", "get", "update", "delete":
			if strings.HasPrefix(what, prefix) {
				return err
			}
		}
		return nil
	}
}

// Holding keeps operations of that name waiting until release is closed, and
// tells when the first has come. They do not care for their ctx.
func Holding(op, prefix string) (f Fault, came, release chan struct{}) {
	came, release = make(chan struct{}), make(chan struct{})
	var once sync.Once
	return func(_ context.Context, o, what string) error {
		if o == op && strings.HasPrefix(what, prefix) {
			once.Do(func() { close(came) })
			<-release
		}
		return nil
	}, came, release
}
