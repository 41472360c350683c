package bus

import "github.com/jitney-bus/jitney/resilience"

// eventRetry is the policy of an event's listeners that have none of their own.
func (b *Bus) eventRetry(name string) resilience.Retry {
	if r, ok := b.cfg.Retries[name]; ok {
		return r
	}
	return b.cfg.Retry
}

// captureOf is what a command's handler captures, whose own setting is given.
func (b *Bus) captureOf(own *Capture) Capture {
	if own != nil {
		return *own
	}
	return b.cfg.Capture
}

// commandRetry is the policy of a command's handler, whose own is given; nil if it is
// never run again.
func (b *Bus) commandRetry(name string, own *resilience.Retry) *resilience.Retry {
	r := own
	if byName, ok := b.cfg.Retries[name]; ok && r == nil {
		r = &byName
	}
	if r == nil {
		r = b.cfg.CommandRetry
	}
	if r == nil || r.Attempts() == 1 {
		return nil
	}
	return r
}
