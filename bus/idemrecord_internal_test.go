package bus

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A record that is accepted has a state that is known, and reads back as it is.
func FuzzIdemRecord(f *testing.F) {
	for _, s := range []string{
		"", "null", "{}", `{"state":"running","run":"r","body":"b"}`, `{"state":"done","result":"AAE=","type":"a/b","nil":true}`,
		`{"state":"failed"}`, `{"state":"failed","error":{"code":"failed","attempts":1e99}}`, `{"state":"failed","error":{},"at":"9999-12-31T23:59:59Z"}`,
		`{"state":"done","result":"%%%"}`, `{"state":1}`, "[", "\xff", `{"state":"done","not_kept":"\u001b[2J"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, v []byte) {
		r, err := parseIdemRecord(v)
		if err != nil {
			return
		}
		require.Contains(t, []idemState{idemRunning, idemDone, idemFailed}, r.State)
		require.True(t, r.State != idemFailed || r.Error != nil)
		m := r.message()
		require.Equal(t, r.Nil, m.Header.Get(headerNil) != "")
		again, err := parseIdemRecord(r.encode())
		require.NoError(t, err)
		require.Equal(t, r.State, again.State)
		require.Equal(t, string(r.Result), string(again.Result))
	})
}
