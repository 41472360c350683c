package bus

import "time"

// since is a moment by the clock on the wall, in nanoseconds as of time.UnixNano;
// 0 is none. It takes less room than a time.Time in what is made for every event.
type since int64

// sinceLayout is how it travels.
const sinceLayout = "2006-01-02T15:04:05.000Z07:00"

// String returns the moment as it travels, in UTC to the millisecond.
func (s since) String() string { return time.Unix(0, int64(s)).UTC().Format(sinceLayout) }

// passed is how much time has passed since then, 0 since none. Where clocks differ
// it may be negative.
func (s since) passed() time.Duration {
	if s == 0 {
		return 0
	}
	return time.Since(time.Unix(0, int64(s)))
}

// parseSince reads what String wrote; what somebody else wrote is none.
func parseSince(text string) since {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.Year() < 1970 || t.Year() > 2261 {
		return 0 // int64 has no room for it
	}
	return max(since(t.Truncate(time.Millisecond).UnixNano()), 0)
}
