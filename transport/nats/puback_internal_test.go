package nats

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParsePubAck(t *testing.T) {
	for in, want := range map[string]pubAck{
		`{"stream":"S","seq":7}`:                                                            {seq: 7},
		`{"stream":"S", "seq":7}`:                                                           {seq: 7},
		`{"stream":"S","domain":"d","seq":18446744073709551615}`:                            {seq: 18446744073709551615},
		`{"stream":"S","seq":7,"duplicate":true}`:                                           {seq: 7, duplicate: true},
		`{"stream":"S","seq":7,"duplicate":false,"val":"3"}`:                                {seq: 7},
		`{"stream":"S","seq":7,"x":{"y":[1,2]}}`:                                            {seq: 7},
		`{"error":{"code":503,"err_code":10077,"description":"full"},"stream":"S","seq":0}`: {status: 503, code: 10077, text: "full"},
	} {
		got, ok := parsePubAck([]byte(in))
		require.True(t, ok, in)
		require.Equal(t, want, got, in)
	}
	for _, in := range []string{``, `{}`, `null`, `+OK`, `{"stream":"S"}`, `{"seq":7}`, `{"stream":"","seq":7}`, `{"stream":"S","seq":0}`,
		`{"stream":"S","seq":-1}`, `{"stream":"S","seq":7`, `{"error":{}}`, `{"stream":7,"seq":7}`, `{"stream":"S","seq":07}`, `{"stream":"S","seq":7,}`} {
		_, ok := parsePubAck([]byte(in))
		require.False(t, ok, in)
	}
}

// FuzzParsePubAck: what the short way reads, the JSON decoder reads the same.
func FuzzParsePubAck(f *testing.F) {
	for _, s := range []string{`{"stream":"S","seq":7}`, `{"stream":"S", "domain":"d","seq":12,"duplicate":true}`, `{"error":{"code":1}}`, `{"a":"\u0041"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = parsePubAck(b)
		a, ok := parsePlainAck(b)
		if !ok {
			return
		}
		var j struct {
			Stream    string `json:"stream"`
			Seq       uint64 `json:"seq"`
			Duplicate bool   `json:"duplicate"`
		}
		require.NoError(t, json.Unmarshal(b, &j))
		require.NotEmpty(t, j.Stream)
		require.Equal(t, j.Seq, a.seq)
		require.Equal(t, j.Duplicate, a.duplicate)
	})
}
