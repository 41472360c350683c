// Package security has no code: its tests hold the permissions of docs/nats.md to
// what each role must be able to do, and must not.
package security
