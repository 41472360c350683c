package check

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/stretchr/testify/require"
)

func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../../jitney.json")
	require.NoError(t, err)
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(text, &d))
	queries := 0
	for _, prefix := range []string{"", "shop_"} {
		for _, panel := range d.Panels {
			for _, q := range panel.Targets {
				query := strings.NewReplacer("${prefix}", prefix, "$__rate_interval", "5m").Replace(q.Expr)
				_, err := parser.NewParser(parser.Options{}).ParseExpr(query)
				require.NoError(t, err, "%s: %s", panel.Title, query)
				queries++
			}
		}
	}
	require.NotZero(t, queries)
}

// Grafana's own types take the dashboard as it is: no field is missing that its schema
// wants, none is unknown, each panel has the options of its plugin.
func TestDashboardForGrafana(t *testing.T) {
	text, err := os.ReadFile("../../jitney.json")
	require.NoError(t, err)
	plugins.RegisterDefaultPlugins()
	strict := func(text string) string {
		var d dashboard.Dashboard
		if err := d.UnmarshalJSONStrict([]byte(text)); err != nil {
			return err.Error() // "" for a list of no errors
		}
		return ""
	}
	require.Empty(t, strict(string(text)))
	require.Contains(t, strict(strings.Replace(string(text), `"reduceOptions"`, `"reduce"`, 1)), "reduceOptions: required field is missing")
	var d dashboard.Dashboard
	require.NoError(t, json.Unmarshal(text, &d))
	require.NoError(t, d.Validate())
	rows, panels, asked := 0, 0, 0
	for _, p := range d.Panels {
		if p.RowPanel != nil || p.Panel.Type == "row" {
			rows++
			continue
		}
		panels++
		require.NotNil(t, p.Panel.Datasource, "%s", *p.Panel.Title)
		require.Equal(t, "${datasource}", *p.Panel.Datasource.Uid)
		asked += len(p.Panel.Targets)
	}
	require.Equal(t, 7, rows, "traffic, latency, failures, queues, sessions, dead letters, breakers")
	require.GreaterOrEqual(t, asked, panels)
}

// trial is series, one point a minute for two hours, on which a rule fires or not.
type trial struct{ fires, quiet string }

// Each rule is tried at the end of the two hours.
var trials = map[string]trial{
	"BusCommandsFailing": {
		`commands_failed_total{type="pay",reason="failed"} 0+10x120
		 commands_processed_total{type="pay"} 0+100x120`,
		`commands_failed_total{type="pay",reason="failed"} 0+1x120
		 commands_processed_total{type="pay"} 0+100x120
		 commands_failed_total{type="rare",reason="failed"} 0x100 1x20
		 commands_processed_total{type="rare"} 0x120`,
	},
	"BusEventsFailing": {
		`events_failed_total{type="paid",group="mailer",handler="send",reason="panic"} 0+10x120
		 events_processed_total{type="paid",group="mailer",handler="send"} 0+100x120`,
		`events_failed_total{type="paid",group="mailer",handler="send",reason="panic"} 0x120
		 events_processed_total{type="paid",group="mailer",handler="send"} 0+100x120`,
	},
	"BusCommandsSlow": {
		`command_processing_duration_seconds_bucket{type="pay",le="1"} 0+90x120
		 command_processing_duration_seconds_bucket{type="pay",le="60"} 0+100x120
		 command_processing_duration_seconds_bucket{type="pay",le="+Inf"} 0+100x120`,
		`command_processing_duration_seconds_bucket{type="pay",le="1"} 0+100x120
		 command_processing_duration_seconds_bucket{type="pay",le="60"} 0+100x120
		 command_processing_duration_seconds_bucket{type="pay",le="+Inf"} 0+100x120`,
	},
	"BusGroupBehind": {
		`group_pending_events{type="paid",group="mailer",instance="a"} 0+100x120
		 group_pending_events{type="paid",group="mailer",instance="b"} 0+100x120`,
		`group_pending_events{type="paid",group="mailer",instance="a"} 90000-100x120
		 group_pending_events{type="viewed",group="stats",instance="a"} 10x120`,
	},
	"BusGroupAbandoned": {
		`group_pending_events{type="paid",group="old"} 7x120
		 group_unsettled_events{type="paid",group="old"} 0x120`,
		`group_pending_events{type="paid",group="slow"} 7x120
		 group_unsettled_events{type="paid",group="slow"} 16x120
		 group_pending_events{type="paid",group="idle"} 0x120
		 group_unsettled_events{type="paid",group="idle"} 0x120`,
	},
	"BusDeadLetters":     {`dead_letter_queue_size 0x115 3x5`, `dead_letter_queue_size 3x120`},
	"BusDeadLettersMany": {`dead_letter_queue_size 1001x120`, "dead_letter_queue_size 1000x120\n dead_letter_queue_oldest_seconds 86400x120"},
	"BusCircuitOpen":     {`circuit_breaker_state{kind="command",type="pay"} 1x120`, `circuit_breaker_state{kind="command",type="pay"} 2x120`},
	"BusBackpressure":    {`backpressure_active{queue="publish"} 1x120`, `backpressure_active{queue="publish"} 0x120`},
	"BusEventsLost":      {`queue_rejected_total{queue="publish"} 0+1x120`, `queue_rejected_total{queue="publish"} 5x120`},
	"BusQueueStuck": {
		`queue_size{job="shop",instance="a",queue="publish"} 9x120
		 events_published_total{job="shop",instance="a",type="paid"} 7x120`,
		`queue_size{job="shop",instance="a",queue="publish"} 9x120
		 events_published_total{job="shop",instance="a",type="paid"} 0+7x120`,
	},
	"BusNoHandlers": {
		"registered_handlers{kind=\"event\"} 0x120\n registered_handlers{kind=\"command\"} 0x120",
		"registered_handlers{kind=\"event\"} 0x120\n registered_handlers{kind=\"command\"} 1x120",
	},
	"BusAbsent":    {`up 1x120`, `registered_handlers{kind="event"} 0x120`},
	"BusPollsFail": {`polls_failed_total{what="groups"} 0+1x120`, `polls_failed_total{what="groups"} 0x120`},
}

func TestAlerts(t *testing.T) {
	p := parser.NewParser(parser.Options{})
	groups, errs := rulefmt.ParseFile("../../alerts.yml", false, model.UTF8Validation, p, promslog.NewNopLogger())
	require.Empty(t, errs)
	require.Len(t, groups.Groups, 1)
	engine := promqltest.NewTestEngine(t, false, 0, 1_000_000)
	for _, rule := range groups.Groups[0].Rules {
		tried, ok := trials[rule.Alert]
		require.True(t, ok, "%s is not tried", rule.Alert)
		fires := func(series string) int {
			store := promqltest.LoadedStorage(t, "load 1m\n "+strings.ReplaceAll(series, "\t", ""))
			defer store.Close()
			q, err := engine.NewInstantQuery(t.Context(), store, nil, rule.Expr, time.Unix(0, 0).Add(2*time.Hour))
			require.NoError(t, err)
			defer q.Close()
			res := q.Exec(t.Context())
			require.NoError(t, res.Err)
			v, err := res.Vector()
			require.NoError(t, err)
			return len(v)
		}
		require.Positive(t, fires(tried.fires), "%s does not fire", rule.Alert)
		require.Zero(t, fires(tried.quiet), "%s fires", rule.Alert)
	}
	require.Len(t, groups.Groups[0].Rules, len(trials))
}
