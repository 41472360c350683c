package memory_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/memory"
)

// hooked is a context that does something when a call begins to wait on it.
type hooked struct {
	context.Context
	waiting func()
}

func (h hooked) Done() <-chan struct{} {
	h.waiting()
	return h.Context.Done()
}

// A reply that is there counts, whatever else happened before it was taken.
func TestReplyGoesFirst(t *testing.T) {
	for name, end := range map[string]func(tr *memory.Transport, cancel func()) error{
		"cancelled": func(_ *memory.Transport, cancel func()) error { cancel(); return nil },
		"closed":    func(tr *memory.Transport, _ func()) error { return tr.Close(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			for range 50 { // each time either could be chosen
				tr := memory.New(memory.Config{})
				src, err := tr.Serve(t.Context(), transport.Endpoint{Address: transport.Address{Name: "a.do"}})
				require.NoError(t, err)
				ctx, cancel := context.WithCancel(t.Context())
				reply, err := tr.Request(hooked{ctx, func() {
					r, err := src.Next(t.Context())
					require.NoError(t, err)
					require.NoError(t, r.Reply(t.Context(), &transport.Message{Value: "done"}))
					require.NoError(t, end(tr, cancel))
				}}, &transport.Message{To: transport.Address{Name: "a.do"}})
				require.NoError(t, err)
				require.Equal(t, "done", reply.Value)
				cancel()
				require.NoError(t, tr.Close(t.Context()))
			}
		})
	}
}
