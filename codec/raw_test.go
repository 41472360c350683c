package codec_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/codec"
)

type image []byte

type pixel uint8

type pixels []pixel

func TestRawMarshal(t *testing.T) {
	plain, named := []byte("abc"), image("abc")
	for _, v := range []any{plain, &plain, named, &named, json.RawMessage("abc"), pixels{'a', 'b', 'c'}} {
		data, err := codec.Raw.Marshal(v)
		require.NoError(t, err, "%T", v)
		require.Equal(t, []byte("abc"), data, "%T", v)
	}
	for _, v := range []any{nil, "abc", 1, struct{}{}, []int{1}, [3]byte{}, (*[]byte)(nil), (*image)(nil)} {
		_, err := codec.Raw.Marshal(v)
		require.ErrorContains(t, err, "byte slices only", "%T", v)
	}
	data, err := codec.Raw.Marshal(image(nil))
	require.NoError(t, err)
	require.Empty(t, data)
}

func TestRawUnmarshalCopies(t *testing.T) {
	data := []byte("abc")
	var (
		plain []byte
		named image
		msg   json.RawMessage
		px    pixels
	)
	for _, v := range []any{&plain, &named, &msg, &px} {
		require.NoError(t, codec.Raw.Unmarshal(data, v), "%T", v)
	}
	data[0] = 'X'
	require.Equal(t, "abc", string(plain))
	require.Equal(t, image("abc"), named)
	require.Equal(t, json.RawMessage("abc"), msg)
	require.Equal(t, pixels{'a', 'b', 'c'}, px)

	require.NoError(t, codec.Raw.Unmarshal(nil, &plain))
	require.Empty(t, plain)
	for _, v := range []any{nil, plain, new(string), new([]int), new([3]byte), (*[]byte)(nil), (*image)(nil), new(*[]byte)} {
		require.ErrorContains(t, codec.Raw.Unmarshal(data, v), "byte slice", "%T", v)
	}
}

func FuzzRaw(f *testing.F) {
	f.Add([]byte("\x00\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v image
		require.NoError(t, codec.Raw.Unmarshal(data, &v))
		back, err := codec.Raw.Marshal(v)
		require.NoError(t, err)
		require.Equal(t, string(data), string(back))
	})
}
