// Package check has no code: its tests let Prometheus itself read the alert rules and
// the queries of the dashboard, and try each rule on series that are to set it off
// and on series that are not. It is a module of its own, so that Prometheus stays
// out of users' module graphs.
package check
