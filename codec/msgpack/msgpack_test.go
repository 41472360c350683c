package msgpack_test

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/codec/msgpack"
)

type line struct {
	SKU string
	Qty int
}

// Result stands for what a command embeds: it must leave no trace in the bytes.
type Result[R any] struct{}

type order struct {
	Result[string]
	ID     string `msgpack:"id"`
	Placed time.Time
	Lines  []line
	Next   *line
	Blob   []byte
	Extra  any
	Secret string `msgpack:"-"`
}

func sample() order {
	return order{
		ID:     "o-1",
		Placed: time.Unix(1_700_000_000, 123_456_789),
		Lines:  []line{{SKU: "A", Qty: 2}, {SKU: "ü", Qty: -70_000}},
		Next:   &line{SKU: "B"},
		Blob:   []byte{0, 255},
		Extra:  []any{"x", true, nil, 1.5},
	}
}

// The bytes are the wire contract: another version of the library must not
// change them.
func TestGolden(t *testing.T) {
	data, err := msgpack.Codec.Marshal(sample())
	require.NoError(t, err)
	require.Equal(t, "86"+
		"a26964"+"a36f2d31"+
		"a6506c61636564"+"d7ff1d6f34546553f100"+
		"a54c696e6573"+"92"+"82a3534b55a141a351747902"+"82a3534b55a2c3bca3517479d2fffeee90"+
		"a44e657874"+"82a3534b55a142a351747900"+
		"a4426c6f62"+"c40200ff"+
		"a54578747261"+"94a178c3c0cb3ff8000000000000", hex.EncodeToString(data))

	var got order
	require.NoError(t, msgpack.Codec.Unmarshal(data, &got))
	require.True(t, sample().Placed.Equal(got.Placed))
	got.Placed = sample().Placed
	require.Equal(t, sample(), got)
	require.Equal(t, "application/msgpack", msgpack.Codec.ContentType())
}

func TestUnmarshalKeepsNoReference(t *testing.T) {
	data := []byte("\x82\xa1A\xc4\x03abc\xa1B\xc4\x03abc") // two binaries
	var got struct {
		A []byte
		B string
	}
	require.NoError(t, msgpack.Codec.Unmarshal(data, &got))
	clear(data)
	require.Equal(t, "abc", string(got.A))
	require.Equal(t, "abc", got.B)
}

func TestRefused(t *testing.T) {
	tests := []struct{ name, body, err string }{
		{"empty", "", "truncated"},
		{"truncated value", "81a161", "truncated"},
		{"truncated string", "a561", "truncated"},
		{"truncated length", "db0000", "truncated"},
		{"truncated ext", "d7ff00", "truncated"},
		{"trailing data", "c0c0", "1 bytes after the end"},
		{"unused byte", "91c1", "byte 0xc1 at offset 1 begins no item"},
		{"array longer than the body", "ddffffffff", "truncated"},
		{"map longer than the body", "dfffffffff", "truncated"},
		{"map of half its pairs", "dc0004c0c0", "truncated"},
		{"string longer than the body", "dbffffffff61", "truncated"},
		{"binary longer than the body", "c6ffffffff61", "truncated"},
		{"ext longer than the body", "c9ffffffff01", "truncated"},
		{"binary key", "81c40161c0", "binary as a map key"},
		{"array key", "8190c0", "array or map as a map key"},
		{"map key", "8180c0", "array or map as a map key"},
		{"too deep", strings.Repeat("91", codec.MaxDepth+1) + "c0", "nested deeper than 64"},
		{"bomb", strings.Repeat("91", 1<<20), "nested deeper than 64"},
		{"wide bomb", strings.Repeat("dd0000ffff", 20000), "nested deeper than 64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body, err := hex.DecodeString(tt.body)
			require.NoError(t, err)
			require.ErrorContains(t, msgpack.Codec.Unmarshal(body, new(any)), tt.err)
		})
	}
	deep, err := hex.DecodeString(strings.Repeat("91", codec.MaxDepth) + "c0")
	require.NoError(t, err)
	require.NoError(t, msgpack.Codec.Unmarshal(deep, new(any)))

	require.Error(t, msgpack.Codec.Unmarshal([]byte{0xa1, 'a'}, new(order)), "text is no struct")
	require.ErrorContains(t, msgpack.Codec.Unmarshal([]byte{0xa1, 'a'}, new([]line)), "body does not fit *[]msgpack_test.line")
	require.Error(t, msgpack.Codec.Unmarshal([]byte{0xc0}, nil))
	require.Error(t, msgpack.Codec.Unmarshal([]byte{0xc0}, (*order)(nil)))
	_, err = msgpack.Codec.Marshal(make(chan int))
	require.Error(t, err)
}

func FuzzUnmarshal(f *testing.F) {
	data, err := msgpack.Codec.Marshal(sample())
	require.NoError(f, err)
	f.Add(data)
	f.Add([]byte("\xdd\x00\x00\xff\xff\xdd\x00\x00\xff\xff\xc0"))
	f.Add([]byte("\x81\xc4\x01a\xc0"))
	f.Add([]byte("\xc7\x0c\xff\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, v := range []any{
			new(order), new([]order), new(map[string]int), new(map[string]any), new(*line), new([4]byte),
			new(string), new([]byte), new([]string), new(float64), new(uint8), new(time.Time), new(map[float64]bool), new(complex64),
		} {
			_ = msgpack.Codec.Unmarshal(data, v)
		}
		var v any
		if msgpack.Codec.Unmarshal(data, &v) != nil {
			return
		}
		again, err := msgpack.Codec.Marshal(v)
		require.NoError(t, err)
		require.NoError(t, msgpack.Codec.Unmarshal(again, new(any)))
	})
}

func ExampleCodec() {
	body, err := codec.Encode(msgpack.Codec, line{SKU: "A", Qty: 2})
	fmt.Printf("%q %v\n", body, err)
	var l line
	err = codec.Decode(msgpack.Codec, body, &l)
	fmt.Println(l, err)
	// Output:
	// "\x82\xa3SKU\xa1A\xa3Qty\x02" <nil>
	// {A 2} <nil>
}

func BenchmarkUnmarshal(b *testing.B) {
	data, _ := msgpack.Codec.Marshal(sample())
	b.ReportAllocs()
	for b.Loop() {
		var o order
		_ = msgpack.Codec.Unmarshal(data, &o)
	}
}
