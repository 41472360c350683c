package cbor_test

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/codec/cbor"
)

type line struct {
	SKU string `json:"sku"`
	Qty int    `cbor:"qty"`
}

// Result stands for what a command embeds: it must leave no trace in the bytes.
type Result[R any] struct{}

type order struct {
	Result[string]
	ID     string
	Placed time.Time
	Lines  []line
	Next   *line
	Blob   []byte
	Extra  any
}

func sample() order {
	return order{
		ID:     "o-1",
		Placed: time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC),
		Lines:  []line{{SKU: "A", Qty: 2}, {SKU: "ü", Qty: -70_000}},
		Next:   &line{SKU: "B"},
		Blob:   []byte{0, 255},
		Extra:  map[string]any{"x": []any{true, nil, 1.5}},
	}
}

// The bytes are the wire contract: another version of the library must not
// change them.
func TestGolden(t *testing.T) {
	data, err := cbor.Codec.Marshal(sample())
	require.NoError(t, err)
	require.Equal(t, "a6"+
		"624944"+"636f2d31"+
		"64426c6f62"+"4200ff"+
		"644e657874"+"a2"+"6371747900"+"63736b756142"+
		"654578747261"+"a1617883f5f6f93e00"+
		"654c696e6573"+"82"+"a2"+"6371747902"+"63736b756141"+"a2"+"637174793a0001116f"+"63736b7562c3bc"+
		"66506c61636564"+"c0781e"+hex.EncodeToString([]byte("2026-03-04T05:06:07.000000089Z")), hex.EncodeToString(data))

	var got order
	require.NoError(t, cbor.Codec.Unmarshal(data, &got))
	require.Equal(t, sample(), got)
	require.Equal(t, "application/cbor", cbor.Codec.ContentType())
}

func TestTimesKeepTheInstant(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 89, time.FixedZone("", 3600))
	data, err := cbor.Codec.Marshal(at)
	require.NoError(t, err)
	var got time.Time
	require.NoError(t, cbor.Codec.Unmarshal(data, &got))
	require.True(t, at.Equal(got), got)
}

func TestUnmarshalKeepsNoReference(t *testing.T) {
	data, err := cbor.Codec.Marshal(map[string][]byte{"a": []byte("abc")})
	require.NoError(t, err)
	var got map[string][]byte
	require.NoError(t, cbor.Codec.Unmarshal(data, &got))
	clear(data)
	require.Equal(t, "abc", string(got["a"]))
}

func TestRefused(t *testing.T) {
	tests := []struct{ name, body, err string }{
		{"empty", "", "EOF"},
		{"truncated", "a16161", "unexpected EOF"},
		{"trailing data", "f6f6", "1 bytes of extraneous data"},
		{"array longer than the body", "9affffffff", "exceeded max number of elements"},
		{"array of many, short body", "9a00010000", "unexpected EOF"},
		{"map longer than the body", "baffffffff", "exceeded max number of key-value pairs"},
		{"text longer than the body", "7affffffff61", "unexpected EOF"},
		{"binary of 2^63", "5b8000000000000000", "byte string length"},
		{"invalid UTF-8", "61ff", "invalid UTF-8"},
		{"reserved", "1c", "invalid additional information"},
		{"too deep", strings.Repeat("81", codec.MaxDepth+1) + "f6", "exceeded max nested level 64"},
		// The library does not count the outermost tag.
		{"too deep in tags", strings.Repeat("d864", codec.MaxDepth+2) + "00", "exceeded max nested level 64"},
		{"too deep, indefinite", strings.Repeat("9f", 1<<20), "exceeded max nested level 64"},
		{"key that is an array", "a18000", "cannot"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body, err := hex.DecodeString(tt.body)
			require.NoError(t, err)
			require.ErrorContains(t, cbor.Codec.Unmarshal(body, new(any)), tt.err)
		})
	}
	deep, err := hex.DecodeString(strings.Repeat("81", codec.MaxDepth) + "f6")
	require.NoError(t, err)
	require.NoError(t, cbor.Codec.Unmarshal(deep, new(any)))

	_, err = cbor.Codec.Marshal(make(chan int))
	require.Error(t, err)
}

func FuzzUnmarshal(f *testing.F) {
	data, err := cbor.Codec.Marshal(sample())
	require.NoError(f, err)
	f.Add(data)
	f.Add([]byte("\x9a\x00\x01\x00\x00\xf6"))
	f.Add([]byte("\x5f\x41a\x41b\xff"))
	f.Add([]byte("\xc2\x49\x01\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, v := range []any{
			new(order), new([]order), new(map[string]int), new(*line), new([4]byte),
			new(string), new([]byte), new(float64), new(uint8), new(time.Time),
		} {
			_ = cbor.Codec.Unmarshal(data, v)
		}
		var v any
		if cbor.Codec.Unmarshal(data, &v) != nil {
			return
		}
		again, err := cbor.Codec.Marshal(v)
		if err != nil {
			return // a time outside the years 0 to 9999
		}
		require.NoError(t, cbor.Codec.Unmarshal(again, new(any)))
	})
}

func ExampleCodec() {
	body, err := codec.Encode(cbor.Codec, line{SKU: "A", Qty: 2})
	fmt.Printf("%q %v\n", body, err)
	var l line
	err = codec.Decode(cbor.Codec, body, &l)
	fmt.Println(l, err)
	// Output:
	// "\xa2cqty\x02cskuaA" <nil>
	// {A 2} <nil>
}

func BenchmarkUnmarshal(b *testing.B) {
	data, _ := cbor.Codec.Marshal(sample())
	b.ReportAllocs()
	for b.Loop() {
		var o order
		_ = cbor.Codec.Unmarshal(data, &o)
	}
}

// Commands of one idempotency key are compared by their bytes.
func TestEqualValuesAreEncodedEqually(t *testing.T) {
	m := map[string]int{}
	for i := range 20 {
		m[string(rune('a'+i))] = i
	}
	first, err := cbor.Codec.Marshal(m)
	require.NoError(t, err)
	for range 20 {
		data, err := cbor.Codec.Marshal(m)
		require.NoError(t, err)
		require.Equal(t, first, data)
	}
}
