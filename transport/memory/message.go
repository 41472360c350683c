package memory

import (
	"bytes"
	"fmt"

	"github.com/jitney-bus/jitney/transport"
)

// carry copies src into dst as it travels: with a codec the body is copied and
// the value stays behind; without one both are shared.
func (t *Transport) carry(dst, src *transport.Message) {
	*dst = *src
	if src.Header != nil {
		dst.Header = src.Header.Clone()
	}
	if t.cfg.Codec != nil {
		dst.Body, dst.Value = bytes.Clone(src.Body), nil
	}
}

// carried is a copy of m as it travels.
func (t *Transport) carried(m *transport.Message) *transport.Message {
	c := &transport.Message{}
	t.carry(c, m)
	return c
}

// checkBody refuses what is over the limit.
func (t *Transport) checkBody(m *transport.Message) error {
	if t.cfg.Codec != nil && len(m.Body) > t.cfg.MaxBody {
		return &transport.SizeError{Size: len(m.Body), Limit: t.cfg.MaxBody}
	}
	return nil
}

// checkName refuses what is no wire name.
func checkName(name string) error {
	if !tokens(name, '.', lower) {
		return fmt.Errorf("name %q: use dotted tokens of [a-z0-9_-]: %w", name, transport.ErrInvalid)
	}
	return nil
}

func checkGroup(group string) error {
	if !tokens(group, 0, lower) {
		return fmt.Errorf("group %q: use [a-z0-9_-]: %w", group, transport.ErrInvalid)
	}
	return nil
}

// tokens reports whether s is one or more non-empty tokens of valid bytes,
// separated by sep.
func tokens(s string, sep byte, valid func(byte) bool) bool {
	empty := true
	for i := range len(s) {
		switch c := s[i]; {
		case valid(c):
			empty = false
		case c == sep && !empty:
			empty = true
		default:
			return false
		}
	}
	return !empty
}

func lower(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}
