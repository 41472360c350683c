// Package cbor is the CBOR codec (RFC 8949), content type "application/cbor",
// on github.com/fxamacker/cbor.
package cbor

import (
	"reflect"

	"github.com/fxamacker/cbor/v2"

	"github.com/jitney-bus/jitney/codec"
)

// Codec encodes Go values as CBOR. Field names come from `cbor` tags, or `json`
// tags where there are none. A value must not contain a pointer cycle.
//
// Times are RFC 3339 text with nanoseconds (tag 0), in UTC. A map decoded into
// an `any` is a map[string]any; other keys than text are refused there. Unknown
// fields are ignored, and the last of several equal keys wins. Maps and structs are
// encoded in the order of their encoded keys (RFC 8949, section 4.2.1), so that equal
// values are encoded equally.
//
// A body is checked before anything is allocated for it: it must be one
// complete item, nested no deeper than codec.MaxDepth, with at most 131,072
// elements in an array and as many pairs in a map.
var Codec codec.Codec = newCodec()

const maxElements = 131072

type cborCodec struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

func newCodec() cborCodec {
	enc, err := cbor.EncOptions{
		Time:          cbor.TimeRFC3339NanoUTC,
		TimeTag:       cbor.EncTagRequired,
		ShortestFloat: cbor.ShortestFloat16,
		Sort:          cbor.SortBytewiseLexical,
	}.EncMode()
	if err != nil {
		panic(err) // the options above are constant
	}
	dec, err := cbor.DecOptions{
		MaxNestedLevels:  codec.MaxDepth,
		MaxArrayElements: maxElements,
		MaxMapPairs:      maxElements,
		DefaultMapType:   reflect.TypeFor[map[string]any](),
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return cborCodec{enc: enc, dec: dec}
}

func (cborCodec) ContentType() string { return "application/cbor" }

func (c cborCodec) Marshal(v any) ([]byte, error) { return c.enc.Marshal(v) }

func (c cborCodec) Unmarshal(data []byte, v any) error { return c.dec.Unmarshal(data, v) }
