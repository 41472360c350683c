package bus

import (
	"errors"
	"maps"
	"reflect"
	"sync"
	"sync/atomic"
)

// typeInfo is what the bus knows of a Go type that is used as a message. T and
// *T share one.
type typeInfo struct {
	name      string
	elem      reflect.Type
	command   bool // defined, or has a Returns method: Publish and Subscribe refuse it
	validates bool // it or its pointer has Validate
	sends     sendTally

	guard atomic.Pointer[guard] // of a command, from its first use
}

// registry maps Go types to wire names. Reads take no lock.
type registry struct {
	mu     sync.Mutex
	byType atomic.Pointer[map[reflect.Type]*typeInfo]
	byName map[string]reflect.Type // wire name to element type

	noCommands, noEvents sendTally // of what was sent and is no message
}

func newRegistry() *registry {
	r := &registry{byName: map[string]reflect.Type{}}
	r.byType.Store(&map[reflect.Type]*typeInfo{})
	return r
}

// unnamed counts what was sent as a message of that kind and is none.
func (r *registry) unnamed(kind Kind) *sendTally {
	if kind == KindCommand {
		return &r.noCommands
	}
	return &r.noEvents
}

// lookup returns what is known of t, registering it under its own name on first
// use. A type that breaks the rules, and a second type under one name, are
// errors of CodeInvalid.
func (r *registry) lookup(t reflect.Type) (*typeInfo, error) {
	if info, ok := (*r.byType.Load())[t]; ok {
		return info, nil
	}
	if t == nil {
		return nil, errorf(CodeInvalid, "", "", "message is nil")
	}
	name, err := nameOf(t)
	if err != nil {
		return nil, err
	}
	return r.add(t, name, false)
}

// named returns what is known of the type under a wire name, nil for none.
func (r *registry) named(name string) *typeInfo {
	r.mu.Lock()
	elem, ok := r.byName[name]
	r.mu.Unlock()
	if !ok {
		return nil
	}
	return (*r.byType.Load())[elem]
}

// define registers t as a command under a name of the caller's choice.
func (r *registry) define(t reflect.Type, name string) (*typeInfo, error) {
	if info, ok := (*r.byType.Load())[t]; ok && info.name == name && info.command {
		return info, nil
	}
	if err := checkName(name); err != nil {
		return nil, errorf(CodeInvalid, "", name, "%w", err)
	}
	return r.add(t, name, true)
}

func (r *registry) add(t reflect.Type, name string, command bool) (*typeInfo, error) {
	elem := t
	if t.Kind() == reflect.Pointer {
		elem = t.Elem()
	}
	ptr := reflect.PointerTo(elem)
	command = command || returns(ptr)
	r.mu.Lock()
	defer r.mu.Unlock()
	old := *r.byType.Load()
	info := old[elem]
	switch {
	case info != nil && info.name != name:
		return nil, errorf(CodeInvalid, "", name, "%v is registered as %q already; one type has one name", t, info.name)
	case info != nil && info.command != command:
		return nil, errorf(CodeInvalid, "", name, "%v is used as an event already; define a command on a type of its own", t)
	case info != nil:
		return info, nil
	}
	if other, ok := r.byName[name]; ok {
		return nil, errorf(CodeInvalid, "", name, "%v and %v share the wire name %q: give one another MessageName", other, elem, name)
	}
	info = &typeInfo{name: name, elem: elem, command: command}
	info.validates = ptr.Implements(reflect.TypeFor[validator]())
	next := maps.Clone(old)
	next[elem], next[ptr] = info, info
	r.byName[name] = elem
	r.byType.Store(&next)
	return info, nil
}

// returns reports whether t has the method of Returning for some result.
func returns(t reflect.Type) bool {
	m, ok := t.MethodByName("Returns")
	return ok && m.Type.NumIn() == 2 && m.Type.NumOut() == 0 && !m.Type.IsVariadic()
}

// validator is what a message implements to be checked before it is sent and
// before it is handled.
type validator interface {
	Validate() error
}

// validate runs the Validate method that v or a pointer to it has. Its error, or
// its panic, is an error of CodeInvalid.
func (t *typeInfo) validate(op string, v any) (err error) {
	if !t.validates {
		return nil
	}
	checked, ok := v.(validator)
	if !ok { // a value whose pointer validates
		checked, ok = pointerTo(v).(validator)
	}
	if !ok {
		return nil
	}
	if err := runValidate(checked); err != nil {
		e := errorf(CodeInvalid, op, t.name, "invalid: %w", err)
		var own *Error
		if errors.As(err, &own) {
			e.Wire, e.Details = own.Wire, own.Details
		}
		return e
	}
	return nil
}

func runValidate(v validator) (err error) {
	defer recovered(&err)
	return v.Validate()
}

// convert turns v, a T or *T, into what a handler of C takes. A handler of a
// value gets a copy, a handler of a pointer the pointer itself.
func convert[C any](v any) (C, error) {
	switch v := v.(type) {
	case C:
		return v, nil
	case *C:
		if v != nil {
			return *v, nil
		}
	}
	var zero C
	if want := reflect.TypeFor[C](); want.Kind() == reflect.Pointer && reflect.TypeOf(v) == want.Elem() {
		return pointerTo(v).(C), nil
	}
	return zero, errorf(CodeInvalid, "", "", "message of type %T where the handler takes %T", v, zero)
}

// pointerTo returns a pointer to a copy of v.
func pointerTo(v any) any {
	p := reflect.New(reflect.TypeOf(v))
	p.Elem().Set(reflect.ValueOf(v))
	return p.Interface()
}

// isNil reports whether v is a nil message.
func isNil(v any) bool {
	if v == nil {
		return true
	}
	rv := reflect.ValueOf(v)
	return rv.Kind() == reflect.Pointer && rv.IsNil()
}

// decodeNew decodes a body into a new element of t.
func (b *Bus) decodeNew(t *typeInfo, contentType string, body []byte) (any, error) {
	p := reflect.New(t.elem).Interface()
	if err := b.decode(t.name, contentType, body, p); err != nil {
		return nil, err
	}
	return p, nil
}
