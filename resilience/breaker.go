package resilience

import (
	"errors"
	"fmt"
	"time"
)

// The defaults of a Breaker.
const (
	DefaultFailureThreshold = 5
	DefaultWindow           = time.Minute
	DefaultRecovery         = time.Minute
	DefaultSuccessThreshold = 3
	DefaultProbeTimeout     = time.Minute
)

// NeverOpens as Breaker.FailureThreshold means that it stays closed.
const NeverOpens = -1

// MaxFailureThreshold is the largest Breaker.FailureThreshold: so many failures
// are remembered.
const MaxFailureThreshold = 10_000

// Breaker says when to stop calling what fails, and when to try again: the
// settings of a circuit breaker. It is a plain value that can be compared, safe
// for concurrent use; the zero value has the defaults.
//
// A closed breaker lets everything through. It opens when there have been
// FailureThreshold failures within Window. It counts failures, and not a rate: set
// the threshold by what your busiest minute may have. An open one lets nothing
// through for Recovery, and is then half-open: it lets one probe through at a time.
// SuccessThreshold successes without a failure close it, one failure opens it
// again.
type Breaker struct {
	// FailureThreshold is how many failures within Window open it, up to
	// MaxFailureThreshold. Default 5; NeverOpens means never.
	FailureThreshold int
	// Window is how long a failure counts. It slides: at each moment the failures
	// of the time just passed count. Default 60 s.
	Window time.Duration
	// Recovery is how long it stays open before the first probe. Default 60 s.
	Recovery time.Duration
	// SuccessThreshold is how many probes must succeed to close it. Default 3.
	SuccessThreshold int
	// ProbeTimeout is how long a probe that does not come back keeps the next one
	// waiting; its result counts even after that. Default 60 s.
	ProbeTimeout time.Duration
}

// WithDefaults returns the breaker with its defaults in place of zeros.
func (b Breaker) WithDefaults() Breaker {
	setDefault(&b.FailureThreshold, DefaultFailureThreshold)
	setDefault(&b.Window, DefaultWindow)
	setDefault(&b.Recovery, DefaultRecovery)
	setDefault(&b.SuccessThreshold, DefaultSuccessThreshold)
	setDefault(&b.ProbeTimeout, DefaultProbeTimeout)
	return b
}

func setDefault[T int | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// Validate returns an error that lists every field that breaks its rule.
func (b Breaker) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("breaker: "+format, args...)) }
	if b.FailureThreshold < NeverOpens || b.FailureThreshold > MaxFailureThreshold {
		bad("FailureThreshold is %d; use 1 to %d, 0 for %d, or NeverOpens (-1)", b.FailureThreshold, MaxFailureThreshold, DefaultFailureThreshold)
	}
	if b.SuccessThreshold < 0 {
		bad("SuccessThreshold is %d; use 1 or more, or 0 for %d", b.SuccessThreshold, DefaultSuccessThreshold)
	}
	for _, d := range []struct {
		name   string
		v, def time.Duration
	}{
		{"Window", b.Window, DefaultWindow},
		{"Recovery", b.Recovery, DefaultRecovery},
		{"ProbeTimeout", b.ProbeTimeout, DefaultProbeTimeout},
	} {
		if d.v < 0 {
			bad("%s is %v; use a positive time, or 0 for %v", d.name, d.v, d.def)
		}
	}
	return errors.Join(errs...)
}

// String returns the breaker in words, such as "opens at 5 failures in 1m for 1m,
// closes after 3 successes".
func (b Breaker) String() string {
	b = b.WithDefaults()
	if b.FailureThreshold == NeverOpens {
		return "never opens"
	}
	return fmt.Sprintf("opens at %s in %s for %s, closes after %s", count(b.FailureThreshold, "failure", "failures"),
		short(b.Window), short(b.Recovery), count(b.SuccessThreshold, "success", "successes"))
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// BreakerState is how a running breaker stands.
type BreakerState uint8

// The states. Their numbers are those of the metric circuit_breaker_state.
const (
	// BreakerClosed lets everything through.
	BreakerClosed BreakerState = 0
	// BreakerOpen lets nothing through.
	BreakerOpen BreakerState = 1
	// BreakerHalfOpen lets one probe through at a time.
	BreakerHalfOpen BreakerState = 2
)

// Gauge returns the number by which metrics tell the state: 0 closed, 1 open, 2
// half-open.
func (s BreakerState) Gauge() float64 {
	switch s {
	case BreakerOpen:
		return 1
	case BreakerHalfOpen:
		return 2
	default:
		return 0
	}
}

// String returns "closed", "open" or "half-open".
func (s BreakerState) String() string {
	switch s {
	case BreakerClosed:
		return "closed"
	case BreakerOpen:
		return "open"
	case BreakerHalfOpen:
		return "half-open"
	default:
		return fmt.Sprintf("BreakerState(%d)", uint8(s))
	}
}

// MarshalText returns String, so that a state is a word in JSON.
func (s BreakerState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *BreakerState) UnmarshalText(text []byte) error {
	for v := BreakerClosed; v <= BreakerHalfOpen; v++ {
		if v.String() == string(text) {
			*s = v
			return nil
		}
	}
	return fmt.Errorf("unknown breaker state %q", text)
}
