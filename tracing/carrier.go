package tracing

import (
	"strings"
	"unicode"

	"github.com/jitney-bus/jitney/bus"
)

// carrier is the headers of a message, as a propagator reads and writes them. Keys
// are written in lower case, as W3C trace context has them, and read in any.
type carrier bus.Header

// The limits of the bus on headers. What is over them would keep the message from
// being sent, so it stays behind: a trace is worth less than a message.
const (
	maxValue  = 4 << 10
	maxValues = 64
)

// Set implements propagation.TextMapCarrier.
func (c carrier) Set(key, value string) {
	key = strings.ToLower(key)
	if len(value) > maxValue || strings.TrimSpace(value) != value || strings.ContainsFunc(value, unicode.IsControl) {
		return
	}
	if _, ok := c[key]; !ok && c.values() >= maxValues {
		return
	}
	bus.Header(c).Set(key, value)
}

func (c carrier) values() (n int) {
	for _, v := range c {
		n += len(v)
	}
	return n
}

// Get implements propagation.TextMapCarrier.
func (c carrier) Get(key string) string {
	key = strings.ToLower(key)
	if v, ok := c[key]; ok && len(v) > 0 {
		return v[0]
	}
	for k, v := range c {
		if len(v) > 0 && strings.EqualFold(k, key) {
			return v[0]
		}
	}
	return ""
}

// Keys implements propagation.TextMapCarrier.
func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}
