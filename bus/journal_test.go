package bus_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/transport/memory"
)

func TestJournalSettings(t *testing.T) {
	for what, c := range map[string]struct {
		cfg  bus.JournalConfig
		want string // "" for valid
	}{
		"off":                    {},
		"all":                    {cfg: bus.JournalConfig{Size: 1_000_000, MaxAge: time.Nanosecond, Bodies: true, MaxBody: 1 << 20}},
		"negative size":          {bus.JournalConfig{Size: -1}, "Config.Journal: Size -1 is negative; 0 is the default"},
		"size over the limit":    {bus.JournalConfig{Size: 1_000_001}, "Config.Journal: Size 1000001 is over 1000000; observe the bus and store its records elsewhere"},
		"negative age":           {bus.JournalConfig{MaxAge: -time.Second}, "Config.Journal: MaxAge -1s is negative; 0 is no limit"},
		"negative body":          {bus.JournalConfig{Bodies: true, MaxBody: -1}, "Config.Journal: MaxBody -1 is negative; 0 is the default"},
		"body over the limit":    {bus.JournalConfig{Bodies: true, MaxBody: 1<<20 + 1}, "Config.Journal: MaxBody 1048577 is over 1048576"},
		"limit without bodies":   {bus.JournalConfig{MaxBody: 100}, "Config.Journal: MaxBody is set and Bodies is not"},
		"all that is wrong":      {bus.JournalConfig{Size: -1, MaxAge: -1}, "Config.Journal: Size -1 is negative; 0 is the default\nConfig.Journal: MaxAge -1ns is negative; 0 is no limit"},
		"default size with age":  {cfg: bus.JournalConfig{MaxAge: time.Hour}},
		"default size with body": {cfg: bus.JournalConfig{Bodies: true}},
	} {
		err := bus.Config{Journal: c.cfg}.Validate()
		if c.want == "" {
			require.NoError(t, err, what)
		} else {
			require.EqualError(t, err, c.want, what)
		}
		if err != nil {
			_, err = bus.New(memory.New(memory.Config{}), bus.Config{Journal: c.cfg})
			require.Equal(t, bus.CodeInvalid, bus.CodeOf(err), what)
		}
	}
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Journal: bus.JournalConfig{MaxAge: time.Hour}})
	require.NoError(t, err)
	defer b.Close(context.Background())
	for range 1001 {
		require.NoError(t, bus.Publish(context.Background(), b, UserCreated{}))
	}
	entries, err := b.Journal(bus.JournalQuery{})
	require.NoError(t, err)
	require.Len(t, entries, 1000, "the default size")
}

// The journal keeps nothing of a message alive.
func TestJournalLetsMessagesGo(t *testing.T) {
	b, err := bus.New(memory.New(memory.Config{}), bus.Config{Service: "svc", Journal: bus.JournalConfig{Bodies: true}})
	require.NoError(t, err)
	defer b.Close(context.Background())
	require.NoError(t, bus.Handle(context.Background(), b, func(context.Context, *forgetUser) (UserID, error) { return "", errors.New("oops") }))
	gone := func() weak.Pointer[forgetUser] {
		c := &forgetUser{ID: UserID(strings.Repeat("x", 100))}
		_, err := bus.Execute(context.Background(), b, c)
		require.Error(t, err)
		return weak.Make(c)
	}()
	for range 10 {
		runtime.GC()
	}
	require.Nil(t, gone.Value())
	entries, err := b.Journal(bus.JournalQuery{})
	require.NoError(t, err)
	require.Len(t, entries, 2)
	require.Contains(t, entries[0].Body, "xxx")
}

type forgetUser struct {
	bus.Command[UserID]
	ID UserID
}
