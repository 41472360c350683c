package codec_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/codec"
)

type line struct {
	SKU string  `json:"sku"`
	Qty int     `json:"qty"`
	Net float64 `json:"net"`
}

type order struct {
	ID     string            `json:"id"`
	Placed time.Time         `json:"placed"`
	Lines  []line            `json:"lines"`
	Tags   map[string]string `json:"tags,omitempty"`
	Note   *string           `json:"note"`
	Blob   []byte            `json:"blob,omitempty"`
}

func sampleOrder() order {
	return order{
		ID:     "o-1 <&> \u2028 ü",
		Placed: time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC),
		Lines:  []line{{SKU: "A", Qty: 2, Net: 1.5}, {SKU: "B", Qty: 1, Net: 1e21}},
		Tags:   map[string]string{"b": "2", "a": "1"},
		Blob:   []byte{0, 255},
	}
}

// The bytes are the wire contract: a new Go release must not change them.
func TestJSONGolden(t *testing.T) {
	data, err := codec.JSON.Marshal(sampleOrder())
	require.NoError(t, err)
	require.Equal(t, `{"id":"o-1 \u003c\u0026\u003e \u2028 ü","placed":"2026-03-04T05:06:07.000000089Z",`+
		`"lines":[{"sku":"A","qty":2,"net":1.5},{"sku":"B","qty":1,"net":1e+21}],`+
		`"tags":{"a":"1","b":"2"},"note":null,"blob":"AP8="}`, string(data))

	var got order
	require.NoError(t, codec.JSON.Unmarshal(data, &got))
	require.Equal(t, sampleOrder(), got)
	require.Equal(t, "application/json", codec.JSON.ContentType())
}

func TestJSONDecodingRules(t *testing.T) {
	tests := []struct {
		name, body string
		want       line
		err        string
	}{
		{name: "unknown field", body: `{"sku":"A","color":"red"}`, want: line{SKU: "A"}},
		{name: "last of equal keys", body: `{"qty":1,"qty":2}`, want: line{Qty: 2}},
		{name: "any case", body: `{"SKU":"A"}`, want: line{SKU: "A"}},
		{name: "white space around", body: " \n{\"qty\":1}\t ", want: line{Qty: 1}},
		{name: "null is the zero value", body: `null`},
		{name: "empty", body: ``, err: "unexpected end of JSON input"},
		{name: "truncated", body: `{"sku":"A"`, err: "unexpected end of JSON input"},
		{name: "trailing data", body: `{"qty":1}{"qty":2}`, err: "invalid character '{' after top-level value"},
		{name: "trailing NUL", body: "{\"qty\":1}\x00", err: `invalid character '\x00' after top-level value`},
		{name: "wrong type", body: `{"qty":"two"}`, err: "cannot unmarshal string into Go struct field line.qty of type int"},
		{name: "fraction in an int", body: `{"qty":1.5}`, err: "cannot unmarshal number 1.5"},
		{name: "out of range", body: `{"net":1e999}`, err: "cannot unmarshal number 1e999"},
		{name: "NaN", body: `{"net":NaN}`, err: "invalid character 'N'"},
		{name: "byte order mark", body: "\ufeff{}", err: "invalid character"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got line
			err := codec.JSON.Unmarshal([]byte(tt.body), &got)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestJSONDepth(t *testing.T) {
	nested := func(depth int, opening, closing string) string {
		return strings.Repeat(opening, depth) + "0" + strings.Repeat(closing, depth)
	}
	flat := "[" + strings.Repeat(`{"a":[]},`, 1000) + "{}]"
	tests := []struct {
		name, body string
		ok         bool
	}{
		{"arrays at the limit", nested(codec.MaxDepth, "[", "]"), true},
		{"arrays over it", nested(codec.MaxDepth+1, "[", "]"), false},
		{"objects at the limit", nested(codec.MaxDepth, `{"a":`, "}"), true},
		{"objects over it", nested(codec.MaxDepth+1, `{"a":`, "}"), false},
		{"mixed over it", nested(33, `{"a":[`, "]}"), false},
		{"wide and flat", flat, true},
		{"brackets in a string", `"` + strings.Repeat("[{", 1000) + `"`, true},
		{"escaped quotes in a string", `"` + strings.Repeat(`\"[\\`, 1000) + `"`, true},
		{"deep after a string that ends in a backslash", `["\\",` + nested(codec.MaxDepth, "[", "]") + "]", false},
		{"deep after many shallow", "[" + strings.Repeat("[],", 1000) + nested(codec.MaxDepth, "[", "]") + "]", false},
		{"bomb", strings.Repeat("[", 1<<20), false},
		{"unclosed string", `"` + strings.Repeat("[", 1000), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var v any
			err := codec.JSON.Unmarshal([]byte(tt.body), &v)
			require.Equal(t, tt.ok, err == nil, "%v", err)
		})
	}
	err := codec.JSON.Unmarshal([]byte(nested(65, "[", "]")), new(any))
	require.EqualError(t, err, "nested deeper than 64 at offset 64")
}

// The depth check must refuse exactly what nests too deep, so it is compared
// with a tokenizer that counts.
func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"id":"1","lines":[{"sku":"A","qty":1}]}`))
	f.Add([]byte(strings.Repeat("[", 65) + strings.Repeat("]", 65)))
	f.Add([]byte(strings.Repeat(`{"\"[":[`, 32) + strings.Repeat("]}", 32)))
	f.Add([]byte(`"\`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var o order
		_ = codec.JSON.Unmarshal(data, &o)

		var v any
		err := codec.JSON.Unmarshal(data, &v)
		if !json.Valid(data) {
			require.Error(t, err)
			return
		}
		if deepest(data) > codec.MaxDepth {
			require.ErrorContains(t, err, "nested deeper")
			return
		}
		if err != nil {
			require.NotContains(t, err.Error(), "nested deeper")
			return
		}
		again, err := codec.JSON.Marshal(v)
		require.NoError(t, err)
		var w any
		require.NoError(t, codec.JSON.Unmarshal(again, &w))
		require.Equal(t, v, w)
	})
}

func deepest(data []byte) int {
	d := json.NewDecoder(strings.NewReader(string(data)))
	depth, most := 0, 0
	for {
		tok, err := d.Token()
		if err != nil {
			return most
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			depth++
			most = max(most, depth)
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
	}
}

// What the depth check adds to decoding: compare with the plain run.
func BenchmarkJSONUnmarshal(b *testing.B) {
	small, _ := codec.JSON.Marshal(sampleOrder())
	many := make([]order, 100)
	for i := range many {
		many[i] = sampleOrder()
	}
	wide, _ := codec.JSON.Marshal(many)
	for _, body := range []struct {
		name string
		data []byte
		into func() any
	}{
		{"small", small, func() any { return new(order) }},
		{"wide", wide, func() any { return new([]order) }},
	} {
		b.Run(fmt.Sprintf("%s/plain", body.name), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = json.Unmarshal(body.data, body.into())
			}
		})
		b.Run(fmt.Sprintf("%s/codec", body.name), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = codec.JSON.Unmarshal(body.data, body.into())
			}
		})
		b.Run(fmt.Sprintf("%s/decode", body.name), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = codec.Decode(codec.JSON, body.data, body.into())
			}
		})
	}
}
