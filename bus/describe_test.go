package bus_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/bus"
)

func TestDescriptionTable(t *testing.T) {
	const policy = "3 retries after 100ms, doubling up to 10s, full jitter"
	long := strings.Repeat("a_long_part.", 6) + "name"
	d := bus.Description{
		Service: "accounts", CommandBreaker: "opens at 5 failures in 1m for 1m, closes after 3 successes", Sending: []string{"middleware.RequireSession", "main.tenant"}, Retry: policy,
		PublishFilter: "names(order.placed)", ReceiveFilter: "not(sessions(a))",
		Handlers: []bus.HandlerDescription{
			{Kind: bus.KindCommand, Name: "user.create", Type: "main.CreateUser", Handler: "accounts", Concurrency: 64,
				Chain:  []bus.Link{{Name: "main.audit"}, {Name: "middleware.Timeout", Own: true}},
				Places: []string{"jitney.cmd._.user.create"}},
			{Kind: bus.KindCommand, Name: "user.purge", Type: "main.Purge", Concurrency: 1},
			{Kind: bus.KindEvent, Name: "user.created", Type: "main.UserCreated", Group: "mailer", Handler: "default",
				Priority: 1000, Concurrency: 10000, Retry: policy, Breaker: "opens at 1 failure in 1m for 1m, closes after 3 successes", Filters: []string{"sample(0.1)", "headers(Tenant)"},
				Places: []string{"jitney.evt.*.user.created", "jitney.retry.mailer.user.created"}},
			{Kind: bus.KindEvent, Name: long, Type: "[]main.Long", Group: strings.Repeat("g", 64), Handler: strings.Repeat("h", 64),
				Priority: 50, Concurrency: 1, Retry: "no retries", Batch: "up to 100 events or 1 MiB, or after 100ms",
				Chain: []bus.Link{{Name: "main.audit"}}, Places: []string{"jitney.evt.*." + long}},
			{Kind: bus.KindEvent, Name: "user.created", Type: "main.UserCreated", Private: true, Handler: "default", Concurrency: 16, Retry: policy},
			{Kind: bus.KindEvent, Name: "user.created", Type: "main.UserCreated", Private: true, Session: "import\t42\x1b[2J", Handler: "listener-1",
				Priority: 50, Concurrency: 16, Retry: policy},
		},
	}
	require.Equal(t, `service    accounts
sending    middleware.RequireSession > main.tenant
publish    names(order.placed)
receive    not(sessions(a))
retry      3 retries after 100ms, doubling up to 10s, full jitter
breaker    opens at 5 failures in 1m for 1m, closes after 3 successes

KIND     NAME                GROUP               HANDLER             PRIO  CONC
command  user.create         -                   accounts            -     64
  type     main.CreateUser
  chain    main.audit > middleware.Timeout (own)
  at       jitney.cmd._.user.create
command  user.purge          -                   -                   -     1
  type     main.Purge
event    user.created        mailer              default             1000  10000
  type     main.UserCreated
  breaker  opens at 1 failure in 1m for 1m, closes after 3 successes
  filter   sample(0.1) and headers(Tenant)
  at       jitney.evt.*.user.created, jitney.retry.mailer.user.created
event    a_long_part.a_lon…  ggggggggggggggggg…  hhhhhhhhhhhhhhhhh…  50    1
  type     []main.Long
  batch    up to 100 events or 1 MiB, or after 100ms
  retry    no retries
  chain    main.audit
  at       jitney.evt.*.a_long_part.a_long_part.a_long_part.a_long_part.a_long_p
           art.a_long_part.name
event    user.created        (private)           default             0     16
  type     main.UserCreated
event    user.created        (session)           listener-1          50    16
  session  import\t42\x1b[2J
  type     main.UserCreated
`, d.String())
	require.Equal(t, "handlers   none\n", bus.Description{}.String())
}

// Whatever the names are, the table fits a terminal and does nothing to it.
func FuzzDescriptionTable(f *testing.F) {
	f.Add("user.created", 50)
	f.Add("a\nb\x1b[31m\u202e\xff\u2028\t\v\x00", -1)
	f.Add(strings.Repeat("ä ", 200), 1<<40)
	f.Add(strings.Repeat("語\n", 100), 0)
	f.Fuzz(func(t *testing.T, s string, n int) {
		d := bus.Description{Service: s, Sending: []string{s, s}, PublishFilter: s, ReceiveFilter: s, Retry: s}
		for _, kind := range []bus.Kind{bus.KindCommand, bus.KindEvent, 0} {
			d.Handlers = append(d.Handlers, bus.HandlerDescription{
				Kind: kind, Name: s, Type: s, Group: s, Handler: s, Session: s, Priority: n, Concurrency: n, Retry: s + "2",
				Batch: s, Filters: []string{s, s}, Chain: []bus.Link{{Name: s}, {Name: s, Own: true}}, Places: []string{s, s},
			})
		}
		text := d.String()
		require.True(t, utf8.ValidString(text))
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			require.LessOrEqual(t, utf8.RuneCountInString(line), 80, line)
			require.Negative(t, strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }), "%q", line)
		}
	})
}
