package codec

import (
	"fmt"
	"strings"
)

// Set is the codecs that a receiver knows. It is immutable and safe for
// concurrent use. The zero value knows JSON only.
type Set struct {
	codecs []Codec
	types  []string // types[i] is codecs[i].ContentType()
}

// NewSet returns a set of the codecs given, of which first is the default that
// senders use. JSON is part of every set, because a message without a content
// type is JSON; a codec given for application/json takes its place. It returns
// an error for a nil codec, a content type that is not a bare media type in
// lower case, and two codecs of one content type.
func NewSet(first Codec, more ...Codec) (Set, error) {
	var s Set
	for i, c := range append([]Codec{first}, more...) {
		if c == nil {
			return Set{}, fmt.Errorf("codec %d is nil", i+1)
		}
		t := c.ContentType()
		if !isMediaType(t) {
			return Set{}, fmt.Errorf("codec %T: content type %q is not a media type in lower case without parameters, as %q",
				c, t, JSON.ContentType())
		}
		if s.index(t) >= 0 {
			return Set{}, fmt.Errorf("two codecs for content type %q: %T and %T", t, s.codecs[s.index(t)], c)
		}
		s.codecs, s.types = append(s.codecs, c), append(s.types, t)
	}
	if t := JSON.ContentType(); s.index(t) < 0 {
		s.codecs, s.types = append(s.codecs, JSON), append(s.types, t)
	}
	return s, nil
}

// Default returns the codec that senders use: the first one given.
func (s Set) Default() Codec {
	if len(s.codecs) == 0 {
		return JSON
	}
	return s.codecs[0]
}

// Lookup returns the codec of a content type, whatever its case and its
// parameters; "" is JSON. It returns an *UnknownTypeError if there is none.
func (s Set) Lookup(contentType string) (Codec, error) {
	if i := s.index(contentType); i >= 0 {
		return s.codecs[i], nil
	}
	t, _, _ := strings.Cut(contentType, ";")
	t = strings.TrimSpace(t)
	if t == "" && contentType == "" {
		t = JSON.ContentType()
	}
	for i, known := range s.types {
		if strings.EqualFold(known, t) {
			return s.codecs[i], nil
		}
	}
	if len(s.codecs) == 0 && strings.EqualFold(t, JSON.ContentType()) {
		return JSON, nil
	}
	return nil, &UnknownTypeError{ContentType: contentType, Known: s.ContentTypes()}
}

// ContentTypes returns the content types of the set, the default first.
func (s Set) ContentTypes() []string {
	if len(s.types) == 0 {
		return []string{JSON.ContentType()}
	}
	return append([]string(nil), s.types...)
}

func (s Set) index(contentType string) int {
	for i, t := range s.types {
		if t == contentType {
			return i
		}
	}
	return -1
}

// isMediaType reports whether t is type/subtype of the characters that RFC 6838
// allows, in lower case.
func isMediaType(t string) bool {
	kind, sub, ok := strings.Cut(t, "/")
	return ok && isToken(kind) && isToken(sub)
}

func isToken(s string) bool {
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("!#$&-^_.+", r) {
			return false
		}
	}
	return s != ""
}
