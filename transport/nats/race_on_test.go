//go:build race

package nats_test

const sideBySide = "3"
