// Package archtest has no code: its test enforces which package of this module
// may depend on which, and which libraries each may link. The rules are in
// rules_test.go.
package archtest
