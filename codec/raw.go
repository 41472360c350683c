package codec

import (
	"bytes"
	"fmt"
	"reflect"
)

// Raw passes bytes through: []byte and any type whose underlying type is
// []byte (json.RawMessage is one), or a pointer to one. Marshal returns the
// caller's bytes, Unmarshal copies.
var Raw Codec = rawCodec{}

type rawCodec struct{}

func (rawCodec) ContentType() string { return "application/octet-stream" }

func (rawCodec) Marshal(v any) ([]byte, error) {
	switch b := v.(type) {
	case []byte:
		return b, nil
	case *[]byte:
		if b != nil {
			return *b, nil
		}
	}
	rv := reflect.ValueOf(v)
	if rv.Kind() == reflect.Pointer && !rv.IsNil() {
		rv = rv.Elem()
	}
	if rv.Kind() == reflect.Slice && rv.Type().Elem().Kind() == reflect.Uint8 {
		return rv.Bytes(), nil
	}
	return nil, fmt.Errorf("raw codec carries byte slices only, not %T", v)
}

func (rawCodec) Unmarshal(data []byte, v any) error {
	if b, ok := v.(*[]byte); ok && b != nil {
		*b = bytes.Clone(data)
		return nil
	}
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Pointer || rv.IsNil() || rv.Elem().Kind() != reflect.Slice ||
		rv.Elem().Type().Elem().Kind() != reflect.Uint8 {
		return fmt.Errorf("raw codec decodes into a non-nil pointer to a byte slice, not %T", v)
	}
	rv.Elem().SetBytes(bytes.Clone(data))
	return nil
}
