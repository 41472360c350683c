//go:build !race

package memory_test

const sideBySide = "64"
