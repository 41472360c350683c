package metrics

import (
	"sync"

	"github.com/jitney-bus/jitney/bus"
)

// The names of labels.
const (
	labelType    = "type"
	labelGroup   = "group"
	labelHandler = "handler"
	labelReason  = "reason"
	labelKind    = "kind"
	labelQueue   = "queue"
	labelWhat    = "what"
)

const (
	other   = "other"   // of what is over the bound
	unknown = "unknown" // the type of what is no message
	refused = "refused" // the reason of a message that did not reach its handler
)

// reasons are those whose series are there before anything has failed.
var reasons = []string{
	string(bus.CodeFailed), string(bus.CodePanic), string(bus.CodeTimeout), string(bus.CodeCancelled), string(bus.CodeInvalid), refused,
}

// handlerLabels are the labels of a handler. A command's has no group.
type handlerLabels struct {
	kind                bus.Kind
	typ, group, handler string
}

func (l handlerLabels) values() []string {
	if l.kind == bus.KindCommand {
		return []string{l.typ, l.handler}
	}
	return []string{l.typ, l.group, l.handler}
}

// bounded gives each key labels of its own until there are max of them. What a key
// got it keeps, so that no series ever shrinks.
type bounded[K comparable, L any] struct {
	max  int
	own  func(K) L
	rest func(K) L

	mu    sync.Mutex
	given map[K]L
}

func (b *bounded[K, L]) of(key K) L {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, ok := b.given[key]
	switch {
	case ok:
		return l
	case len(b.given) >= b.max:
		return b.rest(key)
	}
	if b.given == nil {
		b.given = map[K]L{}
	}
	l = b.own(key)
	b.given[key] = l
	return l
}

func boundedHandlers(max int) *bounded[bus.HandlerKey, handlerLabels] {
	return &bounded[bus.HandlerKey, handlerLabels]{
		max:  max,
		own:  func(k bus.HandlerKey) handlerLabels { return handlerLabels{k.Kind, k.Name, k.Group, k.Handler} },
		rest: func(k bus.HandlerKey) handlerLabels { return handlerLabels{k.Kind, other, other, other} },
	}
}

// typeKey is a message type of one kind.
type typeKey struct {
	kind bus.Kind
	name string
}

func boundedTypes(max int) *bounded[typeKey, typeKey] {
	return &bounded[typeKey, typeKey]{
		max: max,
		own: func(k typeKey) typeKey {
			if k.name == "" {
				k.name = unknown
			}
			return k
		},
		rest: func(k typeKey) typeKey { return typeKey{k.kind, other} },
	}
}

// groupKey is a group with the events of one name.
type groupKey struct{ name, group string }

func boundedGroups(max int) *bounded[groupKey, groupKey] {
	return &bounded[groupKey, groupKey]{
		max:  max,
		own:  func(k groupKey) groupKey { return k },
		rest: func(groupKey) groupKey { return groupKey{other, other} },
	}
}

func boundedNames(max int) *bounded[string, string] {
	return &bounded[string, string]{
		max:  max,
		own:  func(name string) string { return name },
		rest: func(string) string { return other },
	}
}
