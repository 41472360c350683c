// Package tour has no code: its examples are what the documentation shows, and
// they run with the tests. Package doctest compares the two.
package tour
