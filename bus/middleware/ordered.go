package middleware

import "container/list"

// ordered is a map that knows which key was put in, or used, first. Its users
// decide what goes when, and lock.
type ordered[V any] struct {
	byKey map[string]*list.Element
	order list.List // of *entry[V]; the oldest is in front
}

type entry[V any] struct {
	key   string
	value V
}

func newOrdered[V any]() *ordered[V] { return &ordered[V]{byKey: map[string]*list.Element{}} }

func (o *ordered[V]) len() int { return len(o.byKey) }

func (o *ordered[V]) get(key string) (v V, ok bool) {
	if e := o.byKey[key]; e != nil {
		return e.Value.(*entry[V]).value, true
	}
	return v, false
}

// put makes key the newest.
func (o *ordered[V]) put(key string, v V) {
	if e := o.byKey[key]; e != nil {
		e.Value.(*entry[V]).value = v
		o.order.MoveToBack(e)
		return
	}
	o.byKey[key] = o.order.PushBack(&entry[V]{key, v})
}

// oldest returns the value in front.
func (o *ordered[V]) oldest() (v V, ok bool) {
	if e := o.order.Front(); e != nil {
		return e.Value.(*entry[V]).value, true
	}
	return v, false
}

// dropOldest takes out the key in front.
func (o *ordered[V]) dropOldest() {
	if e := o.order.Front(); e != nil {
		delete(o.byKey, o.order.Remove(e).(*entry[V]).key)
	}
}
