package integration_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/codec/cbor"
	"github.com/jitney-bus/jitney/codec/msgpack"
	"github.com/jitney-bus/jitney/integration/internal/world"
	"github.com/jitney-bus/jitney/transport"
)

var mixed = []codec.Codec{codec.JSON, msgpack.Codec, cbor.Codec}

// The content type travels: a process that knows several codecs works with
// senders of each, and answers each in its own.
func TestCodecsMix(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		tr := w.Open()
		server := w.BusOn(tr, bus.Config{Codecs: mixed[1:]})
		require.NoError(w, bus.Handle(w.Context(), server, world.Create))
		seen := world.NewRecord[world.UserID]()
		_, err := bus.Subscribe(w.Context(), server, func(_ context.Context, e world.UserCreated) error {
			seen.Add(e.ID)
			return nil
		})
		require.NoError(w, err)
		for i, c := range mixed {
			sender := w.Bus(bus.Config{Service: "sender", Codec: c})
			id, err := bus.Execute(w.Context(), sender, world.CreateUser{Name: c.ContentType()})
			require.NoError(w, err)
			require.Equal(w, world.UserID("id-"+c.ContentType()), id)
			require.NoError(w, bus.Publish(w.Context(), sender, world.UserCreated{ID: id}))
			require.Equal(w, id, seen.Wait(w, i+1)[i])
			if w.InProcess || i == 0 { // that it is JSON need not be said
				continue
			}
			body, err := c.Marshal(world.CreateUser{Name: "a"})
			require.NoError(w, err)
			reply, err := tr.Request(w.Context(), &transport.Message{
				To: transport.Address{Name: "user.create"}, ContentType: c.ContentType(), Body: body})
			require.NoError(w, err)
			require.Equal(w, c.ContentType(), reply.ContentType)
		}
	})
}

// What nobody can read is the sender's error, which names the command, and harms
// nobody else.
func TestCommandsThatCannotBeRead(t *testing.T) {
	world.Everywhere(t, func(w *world.World) {
		if w.InProcess {
			return // values are not decoded
		}
		tr := w.Open()
		server := w.BusOn(tr, bus.Config{})
		require.NoError(w, bus.Handle(w.Context(), server, world.Create))
		stranger := w.Bus(bus.Config{Service: "stranger", Codec: cbor.Codec})
		_, err := bus.Execute(w.Context(), stranger, world.CreateUser{Name: "a"})
		require.Equal(w, bus.CodeInvalid, bus.CodeOf(err))
		require.ErrorContains(w, err, "user.create")
		require.ErrorContains(w, err, `"application/cbor"`)
		require.ErrorContains(w, err, "application/json", "what it could be read as")

		for what, m := range map[string]transport.Message{
			"truncated":  {Body: []byte(`{"Name":`)},
			"empty":      {},
			"wrong type": {Body: []byte(`{"Name":{}}`)},
			"foreign":    {Body: []byte{0xff, 0x00}, ContentType: "application/x-unknown"},
			"deep":       {Body: []byte(strings.Repeat("[", 5000))},
		} {
			m.To.Name = "user.create"
			reply, err := tr.Request(w.Context(), &m)
			require.NoError(w, err, what)
			require.Equal(w, "invalid", reply.Header.Get("Jitney-Error"), what)
			require.NotEmpty(w, reply.Body, what)
		}
		id, err := bus.Execute(w.Context(), server, world.CreateUser{Name: "good"})
		require.NoError(w, err)
		require.Equal(w, world.UserID("id-good"), id)
	})
}
