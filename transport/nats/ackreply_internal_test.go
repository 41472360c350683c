package nats

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

func TestParseAckReply(t *testing.T) {
	want := ackReply{deliveries: 3, sequence: 1041, stored: time.Unix(0, 1795798800123456789)}
	for _, reply := range []string{
		"$JS.ACK.JITNEY_EVT.g=a=done.3.1041.17.1795798800123456789.5",
		"$JS.ACK._.hash.JITNEY_EVT.g=a=done.3.1041.17.1795798800123456789.5",
		"$JS.ACK.hub.hash.JITNEY_EVT.g=a=done.3.1041.17.1795798800123456789.5.token",
		"$JS.ACK.hub.hash.JITNEY_EVT.g=a=done.3.1041.17.1795798800123456789.5.more.tokens",
	} {
		got, ok := parseAckReply(reply)
		require.True(t, ok, reply)
		require.Equal(t, want, got, reply)
	}
	for _, reply := range []string{
		"", "_INBOX.1", "$JS.ACK", "$JS.ACK.", "$JS.API.S.c.1.2.3.4.5", "$JS.ACK.S.c.1.2.3.4",
		"$JS.ACK._.S.c.1.2.3.4.5", "$JS.ACK.S.c.x.2.3.4.5", "$JS.ACK.S.c.1.-2.3.4.5", "$JS.ACK.S.c.1.2.3..5",
		"$JS.ACK.S.c.1.2.3.99999999999999999999.5", "$JS.ACK.S.c.1.+2.3.4.5",
	} {
		_, ok := parseAckReply(reply)
		require.False(t, ok, reply)
	}
}

// What we read is what the client reads.
func FuzzParseAckReply(f *testing.F) {
	f.Add("$JS.ACK.S.c.1.2.3.4.5")
	f.Add("$JS.ACK.d.h.S.c.1.2.3.4.5.t")
	f.Add("$JS.ACK....1.2.3.4.5.....")
	f.Fuzz(func(t *testing.T, reply string) {
		got, ok := parseAckReply(reply)
		if !ok {
			return
		}
		md, err := (&nats.Msg{Reply: reply, Sub: &nats.Subscription{}}).Metadata()
		require.NoError(t, err)
		require.Equal(t, ackReply{deliveries: int(md.NumDelivered), sequence: md.Sequence.Stream, stored: md.Timestamp}, got)
	})
}
