package main

import (
	"fmt"
	"slices"
	"strings"
)

// span is a range of lines, both ends included.
type span [2]int

// maxSpans keeps a list of spans far below the largest message.
const maxSpans = 20_000

// spansOf returns the lines as spans in order. It sorts lines.
func spansOf(lines []int) []span {
	slices.Sort(lines)
	var spans []span
	for _, n := range lines {
		last := len(spans) - 1
		switch {
		case last >= 0 && n <= spans[last][1]:
		case last >= 0 && n == spans[last][1]+1:
			spans[last][1] = n
		default:
			spans = append(spans, span{n, n})
		}
	}
	return spans
}

// formatSpans writes spans as "3, 7-9", and leaves off what is past the first 20.
func formatSpans(spans []span) string {
	const most = 20
	var parts []string
	for _, s := range spans[:min(len(spans), most)] {
		if s[0] == s[1] {
			parts = append(parts, fmt.Sprint(s[0]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", s[0], s[1]))
		}
	}
	if len(spans) > most {
		parts = append(parts, "…")
	}
	return strings.Join(parts, ", ")
}
