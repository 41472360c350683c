package bus

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jitney-bus/jitney/transport"
)

// maxIdempotencyKeyLen bounds an idempotency key, in bytes.
const maxIdempotencyKeyLen = 128

// The bounds of Config.IdempotencyWindow. The store counts in whole seconds.
const (
	defaultIdempotencyWindow = 24 * time.Hour
	minIdempotencyWindow     = time.Second
	maxIdempotencyWindow     = 365 * 24 * time.Hour
)

// WithIdempotencyKey makes the command run to success once for the key, however
// often it is executed: text of 1 to 128 bytes that names the intention, such as the
// id of an order, the same whenever it is repeated. A key is one of the command's
// name and session: the same key of another command, or in another session, is
// another one.
//
// The handler's side keeps what came of it in the transport's Store. Executing the
// key again
//   - after a success, within Config.IdempotencyWindow (24 h) of it, returns the
//     result that was stored, and the handler does not run;
//   - while it runs, in whatever process, waits for that run within the caller's
//     deadline and returns its result or its error;
//   - after a failure runs the handler again: a failure is told to whom it happened
//     to, and not kept;
//   - after the process that ran it has died runs it again, once the dead one's
//     claim on the key has ended, within about 15 s;
//   - with a command whose encoded form is another returns ErrIdempotencyConflict,
//     while it runs and after a success.
//
// Execute asks again by itself, within its deadline, also where it is not known
// whether the command ran: when a reply was lost, and after 5 s without one, then
// after 1 s more and less and less often. So does middleware.Retry.
//
// A handler may run twice for one key where its process dies, or cannot reach the
// store, between what the handler does and the record of it: the bus cannot close
// that window, a handler that writes the key (Meta.IdempotencyKey) in the
// transaction of its work can. A handler that ignores its context, which ends with
// ErrLeaseLost once its process has lost the claim, may besides overlap with
// the next run.
//
// A result is stored as the codec makes it, also with a transport in this process,
// where the caller of the run gets the value itself and later ones a decoded copy;
// one over 64 KiB, or one that the codec cannot encode, is not kept: later
// executions return ErrResultNotKept. It costs two writes to the store, and room there
// for the window (memory.Config.MaxStore). If the store cannot be reached,
// or is full, nothing runs, with CodeUnavailable.
func WithIdempotencyKey(key string) ExecuteOption {
	return executeOption(func(o *executeOptions) {
		if err := checkIdempotencyKey(key); err != nil {
			o.errs = append(o.errs, err)
		}
		o.key = key
	})
}

// WithIdempotency is WithIdempotencyKey with the command's id as the key: the one of
// WithID, or else one that is made for this call and kept through the times that
// Execute and middleware.Retry send it. Without WithID it makes a lost reply and a
// handler's death harmless, and does not recognise another call. With
// WithIdempotencyKey it changes nothing.
func WithIdempotency() ExecuteOption {
	return executeOption(func(o *executeOptions) { o.idempotent = true })
}

// isKeyed reports whether a command has an idempotency key.
func isKeyed(m *transport.Message) bool { return m.Header[headerIdempotencyKey] != nil }

func checkIdempotencyKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("idempotency key is empty; WithIdempotency makes one for the call")
	case len(key) > maxIdempotencyKeyLen:
		return fmt.Errorf("idempotency key of %d bytes is over the limit of %d", len(key), maxIdempotencyKeyLen)
	case !utf8.ValidString(key) || strings.ContainsFunc(key, unicode.IsControl) || strings.TrimSpace(key) != key:
		return fmt.Errorf("idempotency key %q: use UTF-8 text without control characters and without space at its ends", key)
	}
	return nil
}
