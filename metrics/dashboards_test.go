package metrics_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/metrics"
)

// described are the metrics that there are, with their labels; a histogram by each
// of its series.
func described(t *testing.T) map[string][]string {
	t.Helper()
	m, err := metrics.Register(nil, newBus(t, bus.Config{}), metrics.Config{PollInterval: -1})
	require.NoError(t, err)
	defer m.Close()
	all := map[string][]string{}
	ch := make(chan *prometheus.Desc, 1000)
	m.Describe(ch)
	close(ch)
	desc := regexp.MustCompile(`fqName: "([^"]+)".*variableLabels: \{([^}]*)\}`)
	for d := range ch {
		parts := desc.FindStringSubmatch(d.String())
		require.NotNil(t, parts, d.String())
		labels := append(strings.Split(parts[2], ","), "job", "instance")
		name := parts[1]
		if strings.HasSuffix(name, "_seconds") && !strings.HasPrefix(name, "dead_") {
			for _, part := range []string{"_bucket", "_count", "_sum"} {
				all[name+part] = append(slices.Clone(labels), "le")
			}
			continue
		}
		all[name] = labels
	}
	return all
}

var (
	selector = regexp.MustCompile(`([a-z_][a-z0-9_]*)(\{[^}]*\})?`)
	by       = regexp.MustCompile(`\b(by|on) \(([^)]*)\)`)
	label    = regexp.MustCompile(`([a-z_]+)\s*(=~|!~|!=|=)`)
	// words are those of PromQL that a query may have.
	words = []string{"sum", "max", "min", "by", "on", "rate", "increase", "delta", "absent", "histogram_quantile", "min_over_time", "and", "or", "m", "s"}
)

// checkQuery finds metrics and labels that there are not.
func checkQuery(t *testing.T, known map[string][]string, query string) (used []string) {
	t.Helper()
	plain := strings.NewReplacer("${prefix}", "", "[$__rate_interval]", "").Replace(query)
	var grouped []string
	for _, m := range by.FindAllStringSubmatch(plain, -1) {
		grouped = append(grouped, strings.Split(strings.ReplaceAll(m[2], " ", ""), ",")...)
	}
	plain = by.ReplaceAllString(plain, "")
	for _, m := range selector.FindAllStringSubmatch(regexp.MustCompile(`\[[0-9a-z]+\]`).ReplaceAllString(plain, ""), -1) {
		name := m[1]
		if slices.Contains(words, name) {
			continue
		}
		require.Contains(t, known, name, query)
		used = append(used, name)
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			require.Contains(t, known[name], l[1], query)
		}
	}
	require.NotEmpty(t, used, query)
	for _, l := range grouped {
		require.True(t, slices.ContainsFunc(used, func(name string) bool { return slices.Contains(known[name], l) }), "no label %s: %s", l, query)
	}
	return used
}

func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../dashboards/jitney.json")
	require.NoError(t, err)
	var d struct {
		ID            *int
		UID, Title    string
		SchemaVersion int
		Templating    struct {
			List []struct {
				Name, Type string
				Query      any
			}
		}
		Panels []struct {
			ID          int
			Type, Title string
			Description string
			Datasource  struct{ Type, UID string }
			GridPos     struct{ H, W, X, Y int }
			Targets     []struct{ Expr, LegendFormat, RefID string }
			FieldConfig struct {
				Defaults struct {
					Mappings []struct {
						Options map[string]struct{ Text string }
					}
				}
			}
		}
	}
	require.NoError(t, json.Unmarshal(text, &d))
	require.Nil(t, d.ID, "an id would be another dashboard's")
	require.NotEmpty(t, d.UID)
	require.GreaterOrEqual(t, d.SchemaVersion, 39)
	require.NotContains(t, string(text), "__inputs")
	var variables []string
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
	}
	require.Equal(t, []string{"datasource", "prefix", "job", "instance", "type"}, variables)
	for _, m := range regexp.MustCompile(`\$\{?([a-z]+)\}?`).FindAllStringSubmatch(string(text), -1) {
		require.Contains(t, variables, m[1])
	}

	known := described(t)
	ids, places, rows, used := map[int]bool{}, map[string]bool{}, []string{}, map[string]bool{}
	for _, p := range d.Panels {
		require.False(t, ids[p.ID], "two panels %d", p.ID)
		ids[p.ID] = true
		if p.Type == "row" {
			rows = append(rows, p.Title)
			continue
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			at := fmt.Sprint(x, " ", p.GridPos.Y)
			require.False(t, places[at], "%s lies on another panel", p.Title)
			places[at] = true
		}
		require.Equal(t, "${datasource}", p.Datasource.UID, p.Title)
		require.NotEmpty(t, p.Description, p.Title)
		require.NotEmpty(t, p.Targets, p.Title)
		for _, q := range p.Targets {
			for _, name := range checkQuery(t, known, q.Expr) {
				used[name] = true
				if name == "circuit_breaker_state" {
					states := p.FieldConfig.Defaults.Mappings[0].Options
					require.Equal(t, []string{"closed", "open", "half-open"}, []string{states["0"].Text, states["1"].Text, states["2"].Text})
				}
			}
			for _, m := range regexp.MustCompile(`\{\{([a-z]+)\}\}`).FindAllStringSubmatch(q.LegendFormat, -1) {
				require.Regexp(t, `by \([^)]*\b`+m[1]+`\b`, q.Expr, "the legend of %s", p.Title)
			}
		}
	}
	require.Equal(t, []string{"Traffic", "Latency", "Failures", "Queues and groups", "Sessions and handlers", "Dead letters", "Circuit breakers"}, rows)
	for _, name := range names {
		require.True(t, used[name] || used[name+"_bucket"], "no panel shows %s", name)
	}
}

func TestAlerts(t *testing.T) {
	text, err := os.ReadFile("../dashboards/alerts.yml")
	require.NoError(t, err)
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &file))
	runbook, err := os.ReadFile("../docs/runbook.md")
	require.NoError(t, err)
	known := described(t)
	var alerts, entries []string
	for _, r := range file.Groups[0].Rules {
		alerts = append(alerts, r.Alert)
		checkQuery(t, known, r.Expr)
		require.Contains(t, []string{"page", "ticket"}, r.Labels["severity"], r.Alert)
		require.NotEmpty(t, r.Annotations["summary"], r.Alert)
		require.NotEmpty(t, r.Annotations["description"], r.Alert)
		require.Equal(t, "docs/runbook.md#"+strings.ToLower(r.Alert), r.Annotations["runbook_url"])
		for _, m := range regexp.MustCompile(`\$labels\.([a-z]+)`).FindAllStringSubmatch(r.Annotations["summary"]+r.Annotations["description"], -1) {
			require.Regexp(t, `by \([^)]*\b`+m[1]+`\b|\{queue=`, r.Expr, "%s does not keep the label %s", r.Alert, m[1])
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^## (.+)$`).FindAllStringSubmatch(string(runbook), -1) {
		entries = append(entries, m[1])
	}
	require.Equal(t, alerts, entries, "the runbook has an entry for each alert, in their order")
}
