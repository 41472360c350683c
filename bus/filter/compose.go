package filter

import (
	"errors"
	"fmt"
	"slices"

	"github.com/jitney-bus/jitney/bus"
)

// All passes what every filter passes. It asks them in the order given, until one
// stops the event. All() passes everything.
func All(filters ...bus.Filter) bus.Filter {
	c := compose("all", filters)
	if c.Err != nil {
		return c
	}
	for _, f := range filters {
		switch {
		case f.Sessions == nil:
		case c.Sessions == nil:
			c.Sessions = append([]string{}, f.Sessions...)
		default:
			c.Sessions = slices.DeleteFunc(c.Sessions, func(id string) bool { return !slices.Contains(f.Sessions, id) })
		}
	}
	filters = slices.Clone(filters)
	c.Pass = func(m *bus.Message) bool {
		for i := range filters {
			if !passes(&filters[i], m) {
				return false
			}
		}
		return true
	}
	return c
}

// Any passes what at least one filter passes. It asks them in the order given,
// until one lets the event pass. Without a filter it cannot be used: it would stop
// everything.
func Any(filters ...bus.Filter) bus.Filter {
	c := compose("any", filters)
	if c.Err == nil && len(filters) == 0 {
		c.Err = errors.New("give at least one filter; without any, no event passes")
	}
	if c.Err != nil {
		return c
	}
	c.Sessions = []string{}
	for _, f := range filters {
		if f.Sessions == nil { // it may pass any session
			c.Sessions = nil
			break
		}
		c.Sessions = append(c.Sessions, f.Sessions...)
	}
	filters = slices.Clone(filters)
	c.Pass = func(m *bus.Message) bool {
		for i := range filters {
			if passes(&filters[i], m) {
				return true
			}
		}
		return false
	}
	return c
}

// Not passes what f stops. A private subscription hears every session for it:
// NotSessions and Not(Sessions(…)) leave too many to name.
func Not(f bus.Filter) bus.Filter {
	c := compose("not", []bus.Filter{f})
	if c.Err == nil {
		c.Pass = func(m *bus.Message) bool { return !passes(&f, m) }
	}
	return c
}

// compose returns what every composition has: a name, whether it looks at the
// event, and what is wrong with its parts.
func compose(kind string, filters []bus.Filter) bus.Filter {
	c := bus.Filter{}
	names := make([]string, len(filters))
	var errs []error
	for i, f := range filters {
		names[i] = f.Name
		c.Value = c.Value || f.Value
		errs = append(errs, check(f))
	}
	c.Name, c.Err = label(kind, names), errors.Join(errs...)
	return c
}

func check(f bus.Filter) error {
	switch {
	case f.Err != nil:
		return fmt.Errorf("%s: %w", f.Name, f.Err)
	case f.Pass == nil && (f.Name != "" || f.Value || f.Sessions != nil):
		return fmt.Errorf("%s: it has no Pass", f.Name)
	}
	return nil
}

// passes asks f; the zero Filter lets everything pass.
func passes(f *bus.Filter, m *bus.Message) bool { return f.Pass == nil || f.Pass(m) }
