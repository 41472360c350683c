package filter

import (
	"fmt"
	"slices"

	"github.com/jitney-bus/jitney/bus"
)

// Headers passes events that have all these headers, whatever their values. Keys
// are case-sensitive.
func Headers(keys ...string) bus.Filter {
	label := label("headers", keys)
	switch {
	case len(keys) == 0:
		return invalid(label, "give at least one key")
	case slices.Contains(keys, ""):
		return invalid(label, "a key is empty")
	}
	keys = slices.Clone(keys)
	return bus.Filter{Name: label, Pass: func(m *bus.Message) bool {
		for _, key := range keys {
			if len(m.Header[key]) == 0 {
				return false
			}
		}
		return true
	}}
}

// Header passes events that have one of these values in a header. Of a header with
// several values any one counts. Keys and values are case-sensitive.
func Header(key string, values ...string) bus.Filter {
	label := fmt.Sprintf("header(%s: %q)", key, values)
	switch {
	case key == "":
		return invalid(label, "the key is empty")
	case len(values) == 0:
		return invalid(label, "give at least one value of %q, or use Headers", key)
	}
	values = slices.Clone(values)
	return bus.Filter{Name: label, Pass: func(m *bus.Message) bool {
		return slices.ContainsFunc(m.Header[key], func(v string) bool { return slices.Contains(values, v) })
	}}
}
