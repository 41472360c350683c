// Package protobuf is the Protocol Buffers codec, content type
// "application/protobuf", on google.golang.org/protobuf.
package protobuf

import (
	"fmt"
	"reflect"

	"google.golang.org/protobuf/proto"

	"github.com/jitney-bus/jitney/codec"
)

// Codec encodes generated messages, and nothing else: a value that is not a
// proto.Message is refused. Unmarshal takes a message, or a pointer to a message
// pointer, for which it allocates a message.
//
// Unknown fields are kept, so that a message passed on loses nothing. An empty
// body is a message with no field set. Bodies nested deeper than codec.MaxDepth
// are refused. One program encodes equal messages equally, maps too; another version
// of the library may not.
var Codec codec.Codec = protobufCodec{}

type protobufCodec struct{}

func (protobufCodec) ContentType() string { return "application/protobuf" }

func (protobufCodec) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		if rv := reflect.ValueOf(v); rv.Kind() == reflect.Pointer && !rv.IsNil() {
			m, ok = rv.Elem().Interface().(proto.Message)
		}
	}
	if !ok || m == nil {
		return nil, fmt.Errorf("%T is not a generated protobuf message (use its pointer type)", v)
	}
	if !m.ProtoReflect().IsValid() {
		return nil, fmt.Errorf("nil %T", m)
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

func (protobufCodec) Unmarshal(data []byte, v any) error {
	m, err := target(v)
	if err != nil {
		return err
	}
	return proto.UnmarshalOptions{RecursionLimit: codec.MaxDepth}.Unmarshal(data, m)
}

// target returns the message that v is, or points to.
func target(v any) (proto.Message, error) {
	if m, ok := v.(proto.Message); ok {
		if m == nil || !m.ProtoReflect().IsValid() {
			return nil, fmt.Errorf("decode into a nil %T", v)
		}
		return m, nil
	}
	rv := reflect.ValueOf(v)
	if rv.Kind() == reflect.Pointer && !rv.IsNil() && rv.Elem().Kind() == reflect.Pointer {
		fresh := reflect.New(rv.Elem().Type().Elem())
		if m, ok := fresh.Interface().(proto.Message); ok {
			rv.Elem().Set(fresh)
			return m, nil
		}
	}
	return nil, fmt.Errorf("%T is not a generated protobuf message or a pointer to its pointer type", v)
}
