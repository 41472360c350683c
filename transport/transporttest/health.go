package transporttest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func healthCases() []testCase {
	return []testCase{{name: "HealthUntilClose", run: healthUntilClose}}
}

// healthUntilClose: a driver that tells how it is says that it is well while it is,
// and not after Close, with the same checks each time.
func healthUntilClose(e *env) {
	tr := e.open()
	d, ok := tr.(transport.HealthChecker)
	if !ok {
		return // it is an optional power
	}
	e.subscribe(tr, transport.Subscription{Name: "a.done", Group: "g", AckWait: time.Minute})
	e.subscribe(tr, transport.Subscription{Name: "a.done"})
	before := d.Health(e.ctx())
	require.NotEmpty(e.t, before)
	names := map[string]bool{}
	for _, c := range before {
		require.NoError(e.t, c.Err, c.Name)
		require.Regexp(e.t, `^[a-z_]+$`, c.Name)
		require.False(e.t, names[c.Name], "%s twice", c.Name)
		names[c.Name] = true
	}
	e.close(tr)
	after := d.Health(e.ctx())
	require.Len(e.t, after, len(before))
	failed := 0
	for i, c := range after {
		require.Equal(e.t, before[i].Name, c.Name)
		if c.Err != nil && !c.Usable {
			failed++
		}
	}
	require.NotZero(e.t, failed)
}
