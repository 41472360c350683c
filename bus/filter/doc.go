// Package filter has filters of events, for bus.Config.PublishFilter,
// bus.Config.ReceiveFilter and bus.WithFilter, and their compositions All, Any
// and Not.
//
//	bus.WithFilter(filter.Headers("Tenant"), filter.Not(filter.Sessions("test")))
//
// A filter is made once and used for every event; all of them are safe for
// concurrent use. What is wrong with one, such as a pattern that does not
// compile, is its Err, which bus.New and bus.Subscribe return.
//
// Those that look at the event itself (Where, and compositions that hold one) run
// after it is decoded, all others before. Several filters of one listener must all
// pass; the bus asks those that need no value first, so that it need not decode
// what they stop. All asks in the order given.
//
// RateLimit and Debug do something when they are asked. In a composition they are
// asked only if the filters before them have not decided.
package filter

import (
	"fmt"
	"strings"

	"github.com/jitney-bus/jitney/bus"
)

// invalid is a filter that cannot be used.
func invalid(name, format string, args ...any) bus.Filter {
	return bus.Filter{Name: name, Err: fmt.Errorf(format, args...)}
}

// label names a filter by its kind and what it was made with.
func label(kind string, args []string) string {
	return kind + "(" + strings.Join(args, ", ") + ")"
}
