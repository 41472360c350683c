package bus

import "github.com/jitney-bus/jitney/resilience"

// eventRetry is the policy of an event's listeners that have none of their own.
func (b *Bus) eventRetry(name string) resilience.Retry {
	if r, ok := b.cfg.Retries[name]; ok {
		return r
	}
	return b.cfg.Retry
}
