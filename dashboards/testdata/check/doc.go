// Package check has no code: its tests let Prometheus itself read the alert rules and
// the queries of the dashboard, and try each rule on series that are to set it off
// and on series that are not; and Grafana's own types read the dashboard. It is a
// module of its own, so that both stay out of users' module graphs.
package check
