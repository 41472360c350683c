// Package session holds the rules of session ids. The live session, a scope
// that owns handlers, belongs to package bus.
package session

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// MaxLen is the longest session id, in bytes.
const MaxLen = 128

// ErrInvalid is what Validate's errors are.
var ErrInvalid = errors.New("invalid session id")

// Validate reports whether id may name a session: any non-empty UTF-8 text of
// at most MaxLen bytes. Dots, slashes, colons, spaces and wildcards are fine:
// the drivers encode what they must. The error is an ErrInvalid and states the
// rule that was broken.
func Validate(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("%w: it is empty; give the job or request that it stands for", ErrInvalid)
	case len(id) > MaxLen:
		return fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrInvalid, len(id), MaxLen)
	case !utf8.ValidString(id):
		return fmt.Errorf("%w: %q is not UTF-8", ErrInvalid, id)
	}
	return nil
}
