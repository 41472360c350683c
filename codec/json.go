package codec

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// JSON encodes with encoding/json, and is the default.
//
// Decoding follows encoding/json: unknown fields are ignored, field names match
// whatever their case, and the last of several equal keys wins; numbers in an
// `any` become float64. It refuses an empty body, trailing data and nesting
// deeper than MaxDepth. Repeated keys are not refused, because looking for them
// would cost more than the decoding.
var JSON Codec = jsonCodec{}

type jsonCodec struct{}

func (jsonCodec) ContentType() string { return "application/json" }

func (jsonCodec) Marshal(v any) ([]byte, error) { return json.Marshal(v) }

func (jsonCodec) Unmarshal(data []byte, v any) error {
	if err := checkDepth(data); err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// checkDepth refuses JSON that nests deeper than MaxDepth. Counting the opening
// brackets is a few nanoseconds and settles nearly every body; only one with
// more of them than MaxDepth is walked.
func checkDepth(data []byte) error {
	if bytes.Count(data, []byte{'{'})+bytes.Count(data, []byte{'['}) <= MaxDepth {
		return nil
	}
	depth := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '{', '[':
			if depth++; depth > MaxDepth {
				return fmt.Errorf("nested deeper than %d at offset %d", MaxDepth, i)
			}
		case '}', ']':
			depth--
		case '"':
			i = stringEnd(data, i)
		}
	}
	return nil
}

// stringEnd returns the index of the quote that closes the string opened at i,
// or len(data).
func stringEnd(data []byte, i int) int {
	for i++; i < len(data); i++ {
		switch data[i] {
		case '"':
			return i
		case '\\':
			i++
		}
	}
	return i
}
