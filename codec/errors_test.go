package codec_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/codec"
)

// moody panics in its own methods.
type moody struct{ With any }

func (m moody) MarshalJSON() ([]byte, error) { panic(m.With) }

func (m *moody) UnmarshalJSON([]byte) error { panic("not today") }

func TestDecodeError(t *testing.T) {
	err := codec.Decode(codec.JSON, []byte(`{"qty":"two"}`), new(line))
	var e *codec.Error
	require.ErrorAs(t, err, &e)
	require.True(t, e.Decoding)
	require.Equal(t, "application/json", e.ContentType)
	require.Equal(t, "codec_test.line", e.Type)
	require.Empty(t, e.Stack)
	require.EqualError(t, err, "decode application/json into codec_test.line: json: cannot unmarshal string into Go struct field line.qty of type int")
	_, ok := errors.AsType[*json.UnmarshalTypeError](err)
	require.True(t, ok, "the codec's error is kept")

	err = codec.Decode(codec.JSON, []byte(`{}`), nil)
	require.ErrorContains(t, err, "decode application/json into nil: ")
	require.NoError(t, codec.Decode(codec.JSON, []byte(`{}`), new(line)))
}

func TestEncodeError(t *testing.T) {
	data, err := codec.Encode(codec.JSON, line{SKU: "A"})
	require.NoError(t, err)
	require.JSONEq(t, `{"sku":"A","qty":0,"net":0}`, string(data))

	data, err = codec.Encode(codec.JSON, make(chan int))
	require.Nil(t, data)
	var e *codec.Error
	require.ErrorAs(t, err, &e)
	require.False(t, e.Decoding)
	require.EqualError(t, err, "encode chan int as application/json: json: unsupported type: chan int")
}

func TestPanicsAreErrors(t *testing.T) {
	cause := errors.New("out of paper")
	_, err := codec.Encode(codec.JSON, moody{With: cause})
	require.ErrorIs(t, err, cause)
	require.EqualError(t, err, "encode codec_test.moody as application/json: panic: out of paper")
	e, ok := errors.AsType[*codec.Error](err)
	require.True(t, ok)
	require.Contains(t, e.Stack, "MarshalJSON")

	err = codec.Decode(codec.JSON, []byte(`{}`), new(moody))
	require.EqualError(t, err, "decode application/json into codec_test.moody: panic: not today")
	e, ok = errors.AsType[*codec.Error](err)
	require.True(t, ok)
	require.Contains(t, e.Stack, "UnmarshalJSON")
}

func TestErrorTextIsBounded(t *testing.T) {
	for _, body := range []string{
		`{"qty":` + strings.Repeat("1", 1<<20) + `}`,
		`{"placed":"` + strings.Repeat("ü", 1<<20) + `"}`,
	} {
		var v struct {
			Qty    int
			Placed time.Time
		}
		err := codec.Decode(codec.JSON, []byte(body), &v)
		require.Error(t, err)
		require.Less(t, len(err.Error()), 700)
		require.True(t, utf8.ValidString(err.Error()))
	}
	_, err := codec.Set{}.Lookup(strings.Repeat("\x1b", 1<<20))
	require.Less(t, len(err.Error()), 1500)
	require.NotContains(t, err.Error(), "\x1b")
}
