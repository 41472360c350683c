package bus

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/jitney-bus/jitney/transport"
)

// Header holds a message's headers. Keys are case-sensitive.
type Header = transport.Header

// The bus's own headers. What every message has travels in the typed fields of
// transport.Message; these are for the few that need them.
const (
	headerHandler        = transport.HeaderPrefix + "Handler"         // only this handler of the group
	headerAttempt        = transport.HeaderPrefix + "Attempt"         // failed runs before this copy
	headerFirst          = transport.HeaderPrefix + "First"           // when it first failed, if that limits its retries
	headerThen           = transport.HeaderPrefix + "Then"            // the handlers that wait for that one
	headerSearch         = transport.HeaderPrefix + "Search"          // how often it was passed on for want of that handler
	headerOrigin         = transport.HeaderPrefix + "Origin"          // the event's id, where the copy has one of its own
	headerSequence       = transport.HeaderPrefix + "Sequence"        // the event's place in the log, which the copy does not have
	headerRedriven       = transport.HeaderPrefix + "Redriven"        // the dead letter that the copy was
	headerCopy           = transport.HeaderPrefix + "Copy"            // tells it from another copy of the same dead letter
	headerGeneration     = transport.HeaderPrefix + "Generation"      // how often it was redriven
	headerEdited         = transport.HeaderPrefix + "Edited"          // its body was edited on the way
	headerHistory        = transport.HeaderPrefix + "History"         // what had failed before
	headerError          = transport.HeaderPrefix + "Error"           // a reply that is an error: its code
	headerReceipt        = transport.HeaderPrefix + "Receipt"         // a command whose caller asks who answered
	headerService        = transport.HeaderPrefix + "Service"         // the reply to that
	headerIdempotencyKey = transport.HeaderPrefix + "Idempotency-Key" // a command that is to succeed once for it
	headerAsked          = transport.HeaderPrefix + "Asked"           // beside it, on a try that is not the first: milliseconds since that
	headerRepeated       = transport.HeaderPrefix + "Repeated"        // a reply with the result of an earlier run
	headerNil            = transport.HeaderPrefix + "Nil"             // a reply whose result is nil, whatever its body
	headerPaced          = transport.HeaderPrefix + "Paced"           // the bus that let it in by AdaptiveRateLimit
)

const (
	maxHeaderValue = 4 << 10
	maxHeaders     = 64
)

// checkHeader refuses what would not travel unchanged or would be taken for
// somebody else's header.
func checkHeader(key, value string) error {
	if key == "" || strings.ContainsFunc(key, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || r == ':'
	}) {
		return fmt.Errorf("header key %q: use visible ASCII characters without a colon", key)
	}
	for _, prefix := range []string{"Nats-", transport.HeaderPrefix} {
		if len(key) >= len(prefix) && strings.EqualFold(key[:len(prefix)], prefix) {
			return fmt.Errorf("header key %q: the prefix %q is reserved", key, prefix)
		}
	}
	switch strings.ToLower(key) {
	case "status", "description", "content-type":
		return fmt.Errorf("header key %q is reserved", key)
	}
	if len(value) > maxHeaderValue {
		return fmt.Errorf("header %q: value of %d bytes is over the limit of %d", key, len(value), maxHeaderValue)
	}
	if !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) || strings.TrimSpace(value) != value {
		return fmt.Errorf("header %q: a value is UTF-8 text without control characters and without space at its ends; encode other data", key)
	}
	return nil
}

// checkHeaders refuses what would not travel, of all the headers of a message.
func checkHeaders(h Header) error {
	var errs []error
	n := 0
	for key, values := range h {
		n += len(values)
		for _, v := range values {
			if err := checkHeader(key, v); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if n > maxHeaders {
		errs = append(errs, fmt.Errorf("%d header values are more than %d", n, maxHeaders))
	}
	return errors.Join(errs...)
}

// userHeader returns a copy of the headers that belong to the user.
func userHeader(h Header) Header {
	u := make(Header, len(h))
	for k, v := range h {
		if !ours(k) {
			u[k] = append([]string(nil), v...)
		}
	}
	return u
}

// visible is userHeader for those who only read: h itself, if all of it is the
// user's.
func visible(h Header) Header {
	for k := range h {
		if ours(k) {
			return userHeader(h)
		}
	}
	return h
}

func ours(key string) bool { return strings.HasPrefix(key, transport.HeaderPrefix) }
