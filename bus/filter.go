package bus

import (
	"errors"
	"fmt"
)

// Filter says which events go on. The stock ones and their compositions are in
// package filter; the fields are for your own.
//
// On the sending side (Config.PublishFilter) an event that does not pass is not
// stored, and Publish returns nil. On the receiving side (Config.ReceiveFilter,
// WithFilter) it is done for that listener: acknowledged, never retried. Both
// are told to Config.Observers. The zero Filter lets everything pass.
type Filter struct {
	// Name is what Describe shows.
	Name string
	// Pass reports whether m goes on. It must be fast, safe for concurrent use,
	// and must not modify m. One that panics lets the event pass, which is
	// logged: a broken filter loses nothing. It is asked again when an event is
	// delivered again (m.Attempt is then above 1), so it should answer the same.
	Pass func(m *Message) bool
	// Value says that Pass looks at m.Value. Others run before the event is
	// decoded, with a nil Value.
	Value bool
	// Sessions, if not nil, says that Pass is true for messages of these
	// sessions only. A private subscription then asks the transport for these
	// alone, so that no other event crosses the network for it.
	Sessions []string
	// Err says why the filter cannot be used. New and Subscribe return it.
	Err error
}

// check reports what is wrong with f, which is set somewhere.
func (f Filter) check() error {
	switch {
	case f.Err != nil:
		return fmt.Errorf("filter %s: %w", f.Name, f.Err)
	case f.Pass == nil:
		return errors.New("filter has no Pass")
	}
	return nil
}

func (f Filter) isZero() bool {
	return f.Name == "" && f.Pass == nil && !f.Value && f.Sessions == nil && f.Err == nil
}
