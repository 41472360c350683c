package transport

import "context"

// GroupLister is implemented by a driver that can tell how far its groups are.
type GroupLister interface {
	// Groups returns the groups that exist, one entry for each event name that a
	// group has read, in no order, also those that nobody reads now. It asks the
	// broker: what it says of a group that is read is a moment old.
	Groups(ctx context.Context) ([]GroupState, error)
}

// GroupRetirer is implemented by a driver that can end a group for good.
type GroupRetirer interface {
	// RetireGroup deletes a group's interest in one event name, and what was
	// addressed to that group alone and waits. Events that it has not handled stay in
	// the log for others. A later Subscribe makes a new group. ErrNotFound: there is
	// no such group. ErrConflict: somebody reads it, as far as the driver can tell.
	RetireGroup(ctx context.Context, name, group string) error
}

// GroupState is how far a group is with the events of one name.
type GroupState struct {
	Name, Group string
	// Pending is how many events wait that no process has been handed.
	Pending int
	// Unsettled is how many are handed out and not settled: they wait in a process,
	// are handled, or come again later. Redelivered is how many of these were handed
	// out more than once.
	Unsettled, Redelivered int
}
