// Package hostile has no code: its tests throw messages at a live bus that no
// program of this library would send, and see what becomes of each.
package hostile
