package memory

import "time"

// alarm rings once at the earliest time that it was set to. One alarm serves
// many deadlines: whoever it rings for looks for what is due and sets it again.
// The lock of its owner guards it; ring is called without.
type alarm struct {
	t     *Transport
	ring  func()
	timer *time.Timer
	set   bool
	at    time.Duration
}

// setFor makes the alarm ring at the time given or earlier.
func (a *alarm) setFor(at, now time.Duration) {
	if a.set && a.at <= at {
		return
	}
	a.set, a.at = true, at
	if a.timer == nil {
		a.t.alarms.Add(1)
		a.timer = time.AfterFunc(at-now, func() { defer a.t.alarms.Done(); a.ring() })
	} else if !a.timer.Reset(at - now) {
		a.t.alarms.Add(1) // it was not running; otherwise the count is there
	}
}

// stop keeps the alarm from ringing; it may be ringing already.
func (a *alarm) stop() {
	if a.timer != nil && a.timer.Stop() {
		a.t.alarms.Done()
	}
	a.set = false
}
