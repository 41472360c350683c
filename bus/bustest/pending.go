package bustest

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// pending tells people what is waited for.
func (l *ledger) pending() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ripen(time.Now())
	first, n := map[string]time.Time{}, map[string]int{}
	for t := range l.tasks {
		if was, ok := first[t.what]; !ok || t.began.Before(was) {
			first[t.what] = t.began
		}
		n[t.what]++
	}
	var lines []string
	for what, began := range first {
		lines = append(lines, what+times(n[what])+", for "+round(time.Since(began)).String())
	}
	slices.Sort(lines)
	return append(lines, l.queues(func(q *queue) string {
		if q.counts == 0 {
			return ""
		}
		return fmt.Sprintf("%s of %s: %s not settled, %d in hand", q.topic.name, q.reader(), plural(q.counts, "event"), q.inHand)
	})...)
}

// unattended tells people what is not waited for.
func (l *ledger) unattended() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.queues(func(q *queue) string {
		if q.total == q.counts {
			return ""
		}
		return fmt.Sprintf("%s of %s: %s, and nobody here reads it", q.topic.name, q.reader(), plural(q.total-q.counts, "event"))
	})
	now := time.Now()
	first, n := map[string]time.Duration{}, map[string]int{}
	for _, e := range l.delayed { // the first first
		if n[e.topic.name]++; n[e.topic.name] == 1 {
			first[e.topic.name] = e.due.Sub(now)
		}
	}
	var delayed []string
	for name, due := range first {
		delayed = append(delayed, fmt.Sprintf("%s: %s delayed, due in %v", name, plural(n[name], "event"), round(due)))
	}
	slices.Sort(delayed)
	return append(lines, delayed...)
}

// queues collects what f says of each queue that it says something of.
func (l *ledger) queues(f func(*queue) string) []string {
	var all []*queue
	for _, t := range l.topics {
		for _, q := range t.groups {
			all = append(all, q)
		}
		for _, qs := range t.private {
			for q := range qs {
				all = append(all, q)
			}
		}
	}
	slices.SortFunc(all, func(a, b *queue) int {
		return cmp.Or(cmp.Compare(a.topic.name, b.topic.name), cmp.Compare(a.reader(), b.reader()))
	})
	var lines []string
	for _, q := range all {
		if text := f(q); text != "" {
			lines = append(lines, text)
		}
	}
	return lines
}

// reader is what people are told of whose q is.
func (q *queue) reader() string {
	switch {
	case !q.private:
		return "group " + q.group
	case q.session != "":
		return fmt.Sprintf("a listener in session %q", q.session)
	default:
		return "a private listener"
	}
}

func times(n int) string {
	if n == 1 {
		return ""
	}
	return fmt.Sprintf(" (%d times)", n)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
