package bus

import (
	"errors"
	"time"
)

// IsPermanent reports whether err, or an error that it wraps, was made by
// Permanent. Middleware asks.
func IsPermanent(err error) bool {
	var p *permanentError
	return errors.As(err, &p)
}

// RetryDelay returns the delay that err, or an error that it wraps, was given by
// RetryAfter, and false if it was given none. Middleware asks.
func RetryDelay(err error) (time.Duration, bool) {
	var r *retryAfterError
	if errors.As(err, &r) {
		return r.after, true
	}
	return 0, false
}
