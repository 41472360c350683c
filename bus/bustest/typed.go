package bustest

import (
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/codec"
)

// encoded is a message that is still a body.
type encoded struct {
	codec codec.Codec
	body  []byte
}

// as returns v, the message of that wire name, as an M: itself, what it points to
// or a pointer to it, what a body holds, or another service's type of the same
// message converted through JSON. It reports false if v is no M at all.
func as[M any](v any, name string) (m M, ok bool, err error) {
	want := reflect.TypeFor[M]()
	switch v := v.(type) {
	case M:
		return v, true, nil
	case encoded:
		err := codec.Decode(v.codec, v.body, target(&m))
		return m, true, err
	}
	rv := reflect.ValueOf(v)
	switch {
	case rv.IsValid() && rv.Kind() == reflect.Pointer && rv.Type().Elem() == want:
		if !rv.IsNil() {
			m = rv.Elem().Interface().(M)
		}
		return m, true, nil
	case rv.IsValid() && want.Kind() == reflect.Pointer && rv.Type() == want.Elem():
		p := reflect.New(want.Elem())
		p.Elem().Set(rv)
		return p.Interface().(M), true, nil
	}
	own, err := bus.NameOf[M]()
	if err != nil || own != name { // a defined command is known by its type alone
		return m, false, nil
	}
	if !rv.IsValid() {
		return m, true, nil // it was never decoded
	}
	body, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(body, target(&m))
	}
	if err != nil {
		err = fmt.Errorf("%s is a %T, which does not convert to %v: %w", name, v, want, err)
	}
	return m, true, err
}

// target is where to decode an M: the M itself, made anew if it is a pointer.
func target[M any](m *M) any {
	if t := reflect.TypeFor[M](); t.Kind() == reflect.Pointer {
		*m = reflect.New(t.Elem()).Interface().(M)
		return *m
	}
	return m
}
