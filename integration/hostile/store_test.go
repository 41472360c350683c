package hostile

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

// garbage is what is put in the place of every record.
var garbage = []string{"", "null", "{", "[]", "\x00\xff", `{"service":5,"leases":"x"}`, `{"service":"evil","leases":["*",">","a b","","\u0000"]}`,
	strings.Repeat("[", 50_000), `{"session":"\u001b[2J","opened":"never"}`, `{"session":"` + strings.Repeat("s", 5000) + `"}`}

// TestForgedRecords: what somebody wrote into the bucket keeps the service from nothing
// but what that record is of, with a typed error.
func TestForgedRecords(t *testing.T) {
	l := newLab(t)
	put := func(key, header, value string) {
		require.Empty(t, l.raw(hpubOrPub("$KV.JITNEY_STATE."+key, header, value)), key)
	}
	for i, v := range garbage {
		put(fmt.Sprintf("lease.forged%d", i), "", v)
		put(fmt.Sprintf("lease.forged%d.opening", i), "", v)
		put(fmt.Sprintf("lease.dead%d.opening", i), "", v) // of a process that is not there
		put(fmt.Sprintf("lease.forged%d.a.b.c", i), "", v)
		put(fmt.Sprintf("session.%d.shop.charge", i), "", v)
		put(fmt.Sprintf("owner.other%d", i), "", v)
		put(fmt.Sprintf("redrive.x%d", i), "", v)
		put(fmt.Sprintf("hb.e.x.%d", i), "", v)
		l.goesOn()
	}
	put("lease.status", "NATS/1.0 100\r\nNats-Last-Consumer: 0\r\n\r\n", "")
	put("lease.status2", head("Status: 100", "Nats-Last-Consumer: 0"), "")
	put("lease.bad", head("no header"), "x")
	put("lease", "", "x")
	sessions, err := l.bus.Sessions(t.Context())
	require.NoError(t, err)
	require.Empty(t, sessions, "none has an id that a session may have")
	s, err := l.bus.Session(t.Context(), "real")
	require.NoError(t, err)
	sessions, err = l.bus.Sessions(t.Context())
	require.NoError(t, err)
	found := false
	for _, info := range sessions {
		found = found || info.ID == "real"
	}
	require.True(t, found, "the listing is not cut short")
	require.NoError(t, s.Close(t.Context()))
	l.goesOn()

	require.NotContains(t, l.log.String(), "not ended yet", "nobody tries to end what is no session")

	// A redrive whose mark is garbage.
	require.NoError(t, bus.Publish(t.Context(), l.bus, Order{ID: "fail-marked"}))
	d := l.letters(1)[0]
	put("redrive."+d.ID, "", "{")
	_, err = l.bus.DeadLetters().Redrive(t.Context(), d.ID)
	require.NoError(t, err)
	l.await(4, orderIs("fail-marked"))

	// An idempotency key whose record is garbage runs nothing and says so.
	m := natsgo.NewMsg(charges)
	m.Data = []byte(`{"Order":"keyed"}`)
	m.Header.Set("Jitney-Idempotency-Key", "k")
	reply, err := l.nc.RequestMsg(m, patience)
	require.NoError(t, err)
	require.Equal(t, `"keyed"`, string(reply.Data))
	js, err := l.nc.JetStream()
	require.NoError(t, err)
	kv, err := js.KeyValue("JITNEY_STATE")
	require.NoError(t, err)
	keys, err := kv.Keys()
	require.NoError(t, err)
	for _, key := range keys {
		if strings.HasPrefix(key, "idem.") {
			for _, v := range garbage[1:] {
				_, err = kv.PutString(key, v)
				require.NoError(t, err)
				reply, err = l.nc.RequestMsg(m, patience)
				require.NoError(t, err)
				require.NotEmpty(t, reply.Header.Get("Jitney-Error"), "%.40q", v)
			}
		}
	}
	l.await(1, chargeIs("keyed"))
	l.goesOn()
}

// TestMemory: bodies that are meant to explode take memory in proportion to their
// size, and give it back.
func TestMemory(t *testing.T) {
	l := newLab(t)
	l.goesOn()
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	n := 0
	for _, body := range []string{
		strings.Repeat("[", 900_000), strings.Repeat(`{"Any":`, 120_000), `{"Any":[` + strings.Repeat("[],", 300_000) + "[]]}X",
		`{"Any":"` + strings.Repeat(`\u0000`, 150_000) + `"`, `{"Tags":[` + strings.Repeat(`"",`, 300_000) + `"", 1]}`, `{"N":` + strings.Repeat("1", 900_000) + "}",
	} {
		for range 5 {
			require.Empty(t, l.raw(hpubOrPub(orders, "", body)))
			n++
		}
	}
	for deadline := 0; l.stored("JITNEY_DLQ") < uint64(n); deadline++ {
		l.goesOn()
		require.Less(t, deadline, 10_000)
	}
	require.Len(t, l.all(), 2*l.witness, "no handler has seen any")
	require.Less(t, int64(heap())-int64(before), int64(64<<20), "the server's copies included")
	l.goesOn()
}
