//go:build race

package embedded_test

const sideBySide = 3
