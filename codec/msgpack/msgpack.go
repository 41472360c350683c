// Package msgpack is the MessagePack codec, content type "application/msgpack",
// on github.com/shamaton/msgpack.
package msgpack

import (
	"bytes"
	"fmt"

	"github.com/shamaton/msgpack/v3"

	"github.com/jitney-bus/jitney/codec"
)

// Codec encodes Go values as MessagePack. A struct is a map from field name to
// value; a `msgpack` tag renames a field, and `msgpack:"-"` leaves it out. A
// value must not contain a pointer cycle. The bytes of equal values may differ where
// there are maps.
//
// Times keep their nanoseconds and decode in the local zone. Unknown fields are
// ignored, and the last of several equal keys wins. A map decoded into an `any`
// is a map[any]any. An integer that is too large for its field is cut to it
// without an error, so let both sides declare one type.
//
// A body is checked before anything is allocated for it: it must be one
// complete item, with no array or map longer than what follows it, no key that
// is an array, a map or binary, and nested no deeper than codec.MaxDepth.
var Codec codec.Codec = msgpackCodec{}

type msgpackCodec struct{}

func (msgpackCodec) ContentType() string { return "application/msgpack" }

func (msgpackCodec) Marshal(v any) ([]byte, error) { return msgpack.Marshal(v) }

func (msgpackCodec) Unmarshal(data []byte, v any) (err error) {
	// The library panics on some well-formed bodies that do not fit v, as text
	// for a slice of structs.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("body does not fit %T: %v", v, p)
		}
	}()
	binary, err := check(data)
	if err != nil {
		return err
	}
	if binary {
		data = bytes.Clone(data) // the library's byte slices point into data
	}
	return msgpack.UnmarshalAsMap(data, v)
}
