package filter

import (
	"reflect"

	"github.com/jitney-bus/jitney/bus"
)

// Where passes events of type E that pass says so of, and every event of another
// type. It runs after the event is decoded. pass must not modify the event; of E
// and *E it gets the one that it takes.
func Where[E any](pass func(event E) bool) bus.Filter {
	t := reflect.TypeFor[E]()
	label := "where(" + t.String() + ")"
	if pass == nil {
		return invalid(label, "the function is nil")
	}
	if _, err := bus.NameOf[E](); err != nil {
		return bus.Filter{Name: label, Err: err}
	}
	return bus.Filter{Name: label, Value: true, Pass: func(m *bus.Message) bool {
		switch v := m.Value.(type) {
		case E:
			return pass(v)
		case *E:
			return v == nil || pass(*v)
		}
		if v := reflect.ValueOf(m.Value); v.IsValid() && t.Kind() == reflect.Pointer && v.Type() == t.Elem() {
			p := reflect.New(v.Type()) // of a copy
			p.Elem().Set(v)
			return pass(p.Interface().(E))
		}
		return true
	}}
}
