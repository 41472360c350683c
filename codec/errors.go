package codec

import (
	"fmt"
	"reflect"
	"runtime/debug"
	"strings"
	"unicode/utf8"
)

// Encode marshals v with c. Its error is an *Error.
func Encode(c Codec, v any) (data []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			data, err = nil, panicked(encoding, c, v, p)
		}
	}()
	if data, err = c.Marshal(v); err != nil {
		return nil, newError(encoding, c, v, err)
	}
	return data, nil
}

// Decode unmarshals data with c into v, a non-nil pointer. Its error is an
// *Error.
func Decode(c Codec, data []byte, v any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(decoding, c, v, p)
		}
	}()
	if err = c.Unmarshal(data, v); err != nil {
		return newError(decoding, c, v, err)
	}
	return nil
}

// Error is a value that cannot be encoded or a body that cannot be decoded.
// Trying again gives the same error.
type Error struct {
	// Decoding tells a bad body from a bad value.
	Decoding bool
	// ContentType is the codec's, and Type the Go type encoded or decoded into.
	ContentType, Type string
	// Err is the codec's error. Its text may quote the body at length.
	Err error
	// Stack is set when the codec, or a method of the value, panicked.
	Stack string
}

// maxErrorText bounds what a hostile body can put into logs and dead letters:
// codecs quote numbers and times of any length.
const maxErrorText = 300

// Error quotes at most 300 bytes of the codec's error.
func (e *Error) Error() string {
	text := shorten(e.Err.Error())
	if e.Decoding {
		return fmt.Sprintf("decode %s into %s: %s", e.ContentType, e.Type, text)
	}
	return fmt.Sprintf("encode %s as %s: %s", e.Type, e.ContentType, text)
}

// Unwrap returns the codec's error.
func (e *Error) Unwrap() error { return e.Err }

// UnknownTypeError is a content type that no codec of a Set has.
type UnknownTypeError struct {
	// ContentType is what the message says, Known what the set has.
	ContentType string
	Known       []string
}

func (e *UnknownTypeError) Error() string {
	return fmt.Sprintf("no codec for content type %q: this bus knows %s; add the codec to its configuration",
		shorten(e.ContentType), strings.Join(e.Known, ", "))
}

const (
	encoding = false
	decoding = true
)

func newError(dec bool, c Codec, v any, err error) *Error {
	t := "nil"
	if rt := reflect.TypeOf(v); rt != nil {
		if dec && rt.Kind() == reflect.Pointer {
			rt = rt.Elem()
		}
		t = rt.String()
	}
	return &Error{Decoding: dec, ContentType: c.ContentType(), Type: t, Err: err}
}

func panicked(dec bool, c Codec, v, p any) *Error {
	err, ok := p.(error)
	if !ok {
		err = fmt.Errorf("%v", p)
	}
	e := newError(dec, c, v, fmt.Errorf("panic: %w", err))
	e.Stack = string(debug.Stack())
	return e
}

// shorten cuts s to maxErrorText bytes, at the start of a rune.
func shorten(s string) string {
	if len(s) <= maxErrorText {
		return s
	}
	n := maxErrorText
	for n > maxErrorText-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
