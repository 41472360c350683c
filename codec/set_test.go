package codec_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/codec"
)

// typed is JSON under another content type.
type typed struct {
	codec.Codec
	contentType string
}

func (c typed) ContentType() string { return c.contentType }

func TestSetLookup(t *testing.T) {
	set, err := codec.NewSet(codec.Raw, typed{codec.JSON, "application/vnd.acme.v2+json"})
	require.NoError(t, err)
	require.Equal(t, codec.Raw, set.Default())
	require.Equal(t, []string{"application/octet-stream", "application/vnd.acme.v2+json", "application/json"}, set.ContentTypes())

	tests := []struct{ contentType, want string }{
		{"", "application/json"},
		{"application/json", "application/json"},
		{"Application/JSON", "application/json"},
		{"application/json; charset=utf-8", "application/json"},
		{" application/json ;charset=utf-8;v=1", "application/json"},
		{"application/octet-stream", "application/octet-stream"},
		{"APPLICATION/VND.ACME.V2+JSON;x", "application/vnd.acme.v2+json"},
	}
	for _, tt := range tests {
		c, err := set.Lookup(tt.contentType)
		require.NoError(t, err, tt.contentType)
		require.Equal(t, tt.want, c.ContentType(), tt.contentType)
	}
	for _, ct := range []string{"application/cbor", ";charset=utf-8", " ", "application", "application/jsonx", "text/json, application/json"} {
		_, err := set.Lookup(ct)
		var unknown *codec.UnknownTypeError
		require.ErrorAs(t, err, &unknown, ct)
		require.Equal(t, ct, unknown.ContentType)
		require.Equal(t, set.ContentTypes(), unknown.Known)
	}
}

func TestSetZeroValueKnowsJSON(t *testing.T) {
	var set codec.Set
	require.Equal(t, codec.JSON, set.Default())
	require.Equal(t, []string{"application/json"}, set.ContentTypes())
	for _, ct := range []string{"", "application/json", "Application/JSON; charset=utf-8"} {
		c, err := set.Lookup(ct)
		require.NoError(t, err, ct)
		require.Equal(t, codec.JSON, c)
	}
	_, err := set.Lookup("application/octet-stream")
	require.EqualError(t, err, `no codec for content type "application/octet-stream": this bus knows application/json; add the codec to its configuration`)
}

func TestSetOwnJSONTakesThePlace(t *testing.T) {
	own := typed{codec.JSON, "application/json"}
	set, err := codec.NewSet(codec.Raw, own)
	require.NoError(t, err)
	c, err := set.Lookup("")
	require.NoError(t, err)
	require.Equal(t, codec.Codec(own), c)
	require.Len(t, set.ContentTypes(), 2)
}

func TestSetContentTypesIsACopy(t *testing.T) {
	set, err := codec.NewSet(codec.JSON)
	require.NoError(t, err)
	set.ContentTypes()[0] = "x/y"
	require.Equal(t, []string{"application/json"}, set.ContentTypes())
}

func TestNewSetRefuses(t *testing.T) {
	_, err := codec.NewSet(nil)
	require.ErrorContains(t, err, "codec 1 is nil")
	_, err = codec.NewSet(codec.JSON, nil)
	require.ErrorContains(t, err, "codec 2 is nil")
	_, err = codec.NewSet(codec.JSON, codec.Raw, codec.Raw)
	require.ErrorContains(t, err, `two codecs for content type "application/octet-stream"`)
	for _, ct := range []string{"", "json", "/", "a/", "/b", "a/b/c", "A/b", "a/b;c=d", "a/b ", "a/bü"} {
		_, err = codec.NewSet(typed{codec.JSON, ct})
		require.ErrorContains(t, err, "is not a media type", ct)
	}
}

func FuzzSetLookup(f *testing.F) {
	set, err := codec.NewSet(codec.JSON, codec.Raw)
	require.NoError(f, err)
	f.Add("application/json; charset=utf-8")
	f.Add(";")
	f.Fuzz(func(t *testing.T, contentType string) {
		c, err := set.Lookup(contentType)
		if err != nil {
			require.Less(t, len(err.Error()), 2000)
			return
		}
		again, err := set.Lookup(c.ContentType())
		require.NoError(t, err)
		require.Equal(t, c, again)
	})
}

func BenchmarkSetLookup(b *testing.B) {
	set, _ := codec.NewSet(codec.Raw, codec.JSON)
	for _, ct := range []string{"application/json", "Application/JSON; charset=utf-8"} {
		b.Run(ct, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = set.Lookup(ct)
			}
		})
	}
}
