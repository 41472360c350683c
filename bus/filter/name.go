package filter

import (
	"path"
	"slices"

	"github.com/jitney-bus/jitney/bus"
)

// Type passes events of type E, by its wire name; E and *E are the same.
func Type[E any]() bus.Filter {
	name, err := bus.NameOf[E]()
	if err != nil {
		return bus.Filter{Name: "type", Err: err}
	}
	return Names(name)
}

// Names passes events of these wire names.
func Names(names ...string) bus.Filter {
	label := label("names", names)
	if len(names) == 0 {
		return invalid(label, "give at least one name")
	}
	if slices.Contains(names, "") {
		return invalid(label, "a name is empty")
	}
	names = slices.Clone(names)
	return bus.Filter{Name: label, Pass: func(m *bus.Message) bool { return slices.Contains(names, m.Name) }}
}

// Pattern passes events whose wire name matches a pattern of path.Match: "*" is
// any text, dots included, "?" one character, "[a-c]" one of several. "order.*"
// passes order.placed and order.item.added.
//
// It is a glob and no regular expression, because in one the dots of names would
// match everything and a forgotten anchor would match too much.
func Pattern(pattern string) bus.Filter {
	label := label("pattern", []string{pattern})
	if pattern == "" {
		return invalid(label, "the pattern is empty; \"*\" matches every name")
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return invalid(label, "%q does not compile: %w", pattern, err)
	}
	return bus.Filter{Name: label, Pass: func(m *bus.Message) bool {
		ok, err := path.Match(pattern, m.Name)
		return ok && err == nil
	}}
}
