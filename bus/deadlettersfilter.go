package bus

import (
	"fmt"
	"strings"
	"time"
)

// DeadLetterFilter selects dead letters. Fields that are set must all match; the
// zero value selects everything. The bus filters: a transport hands out its dead
// letters a page at a time and knows nothing of this, so a filter costs the reading
// of all of them, in memory that does not grow with their number.
type DeadLetterFilter struct {
	// Kind, Name, Group, Handler, Session, MessageID and Code are compared whole,
	// with the fields of DeadLetter.
	Kind                                     Kind
	Name, Group, Handler, Session, MessageID string
	Code                                     Code
	// Text is part of the error's text, in upper or lower case.
	Text string
	// Since and Until bound when it failed last: from Since on, and before Until.
	Since, Until time.Time
	// Where is for everything else, and is asked last. It runs on the caller's
	// goroutine.
	Where func(DeadLetter) bool
}

func (f *DeadLetterFilter) isZero() bool {
	return f.Kind == 0 && f.Name == "" && f.Group == "" && f.Handler == "" && f.Session == "" && f.MessageID == "" &&
		f.Code == "" && f.Text == "" && f.Since.IsZero() && f.Until.IsZero() && f.Where == nil
}

// check finds what cannot be meant.
func (f *DeadLetterFilter) check(op string) error {
	var err error
	switch {
	case f.Kind > KindEvent:
		err = fmt.Errorf("filter: Kind %d is neither KindCommand nor KindEvent", f.Kind)
	case !f.Until.IsZero() && !f.Since.Before(f.Until):
		err = fmt.Errorf("filter: Until %v is not after Since %v", f.Until, f.Since)
	default:
		return nil
	}
	return errorf(CodeInvalid, op, "", "%w", err)
}

func (f *DeadLetterFilter) match(d DeadLetter) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	return (f.Kind == 0 || f.Kind == d.Kind) && is(f.Name, d.Name) && is(f.Group, d.Group) && is(f.Handler, d.Handler) &&
		is(f.Session, d.Session) && is(f.MessageID, d.MessageID) && is(string(f.Code), string(d.Code)) &&
		(f.Text == "" || strings.Contains(strings.ToLower(d.Err), strings.ToLower(f.Text))) &&
		!d.Last.Before(f.Since) && (f.Until.IsZero() || d.Last.Before(f.Until)) &&
		(f.Where == nil || f.Where(d))
}
