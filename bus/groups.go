package bus

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/jitney-bus/jitney/transport"
)

// GroupInfo is how far a group is with the events of one name, in all processes.
type GroupInfo struct {
	Name  string `json:"name"`
	Group string `json:"group"`
	// Pending is how many events no process has been handed yet: the group's lag.
	Pending int `json:"pending"`
	// Unsettled is how many are with a process, prefetched or handled, or wait for a
	// retry in the transport or a process. Redelivered is how many of these were
	// handed out more than once. On NATS what waits for a retry for longer than 30 s
	// is in neither until it is due.
	Unsettled   int `json:"unsettled"`
	Redelivered int `json:"redelivered"`
	// Here says that a handler of this process is in the group.
	Here bool `json:"here,omitempty"`
}

// Groups lists the durable groups of the transport with what each has before it, by
// name and group; also those that no process reads any more, which go on to hold
// what is published. It asks the transport, so it is for people and for gauges, not
// for every message. Without a deadline in ctx Config.PublishTimeout bounds it.
//
// The error is an *Error: CodeInvalid for a transport that cannot tell,
// CodePermission, CodeUnavailable, CodeTimeout, CodeClosed.
func (b *Bus) Groups(ctx context.Context) ([]GroupInfo, error) {
	const op = "groups"
	if err := b.open(ctx, op, ""); err != nil {
		return nil, err
	}
	l, ok := b.tr.(transport.GroupLister)
	if !ok {
		return nil, errorf(CodeInvalid, op, "", "this transport does not tell of its groups")
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.PublishTimeout)
	defer cancel()
	states, err := l.Groups(ctx)
	if err != nil {
		return nil, fromTransport(op, "", "", err)
	}
	all := make([]GroupInfo, 0, len(states))
	for _, s := range states {
		all = append(all, GroupInfo{
			Name: s.Name, Group: s.Group, Pending: s.Pending, Unsettled: s.Unsettled, Redelivered: s.Redelivered,
			Here: b.root.reads(s.Group, s.Name),
		})
	}
	slices.SortFunc(all, func(x, y GroupInfo) int {
		return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Group, y.Group))
	})
	return all, nil
}

// reads reports whether a group is read here.
func (s *scope) reads(group, name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.readers[readerKey{group: group, name: name}] != nil
}

// RetireGroup deletes what a group is to the events of one name: its place in the
// log, and the retries that wait for it. Nobody handles for it what it had before it,
// and a later Subscribe begins anew. It is for a group whose service is gone for
// good: as long as the group is there its events cannot be forgotten. Dead letters of
// the group stay.
//
// Close its subscriptions first, in every process. The error is an *Error:
// CodeConflict if this process reads the group, or another that the transport knows
// of; on NATS one that is busy just then is not seen, and its handlers fail to settle
// what they have. CodeNotFound: there is no such group. The others are as of Groups.
func (b *Bus) RetireGroup(ctx context.Context, group, name string) error {
	const op = "retire group"
	if err := b.open(ctx, op, name); err != nil {
		return err
	}
	if err := errors.Join(checkGroup(group), checkName(name)); err != nil {
		return errorf(CodeInvalid, op, name, "%w", err)
	}
	r, ok := b.tr.(transport.GroupRetirer)
	if !ok {
		return errorf(CodeInvalid, op, name, "this transport does not retire groups")
	}
	if b.root.reads(group, name) {
		return errorf(CodeConflict, op, name, "this process reads group %q: close its subscriptions first", group)
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.PublishTimeout)
	defer cancel()
	err := r.RetireGroup(ctx, name, group)
	if errors.Is(err, transport.ErrNotFound) {
		return errorf(CodeNotFound, op, name, "there is no group %q of it: %w", group, err)
	}
	if err == nil {
		b.log.Info("group retired", "group", group, "name", name)
	}
	return fromTransport(op, name, "", err)
}
