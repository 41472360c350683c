package bus

import (
	"fmt"
	"reflect"
	"strings"
	"unicode"
)

// Named is what a message implements to choose its wire name: dotted tokens of
// [a-z0-9_-], at most 128 bytes. A type that does not implement it is named
// package.type_name in snake case; renaming the type then renames the message,
// so name every event that is stored.
type Named interface {
	MessageName() string
}

// MaxNameLen is the longest wire name, and MaxGroupLen the longest group, in
// bytes.
const (
	MaxNameLen  = 128
	MaxGroupLen = 64
)

// NameOf returns the wire name of messages of type T. T and *T share a name.
// The error is of CodeInvalid: the name breaks the rule of Named, or T is a type
// without a name of its own (a basic type, an unnamed or generic type).
func NameOf[T any]() (string, error) {
	return nameOf(reflect.TypeFor[T]())
}

func nameOf(t reflect.Type) (string, error) {
	elem := t
	if elem.Kind() == reflect.Pointer {
		elem = elem.Elem()
	}
	if elem.Kind() == reflect.Interface || elem.Kind() == reflect.Pointer {
		return "", errorf(CodeInvalid, "", "", "%v cannot be a message: use a named struct type", t)
	}
	// A fresh value is asked, so that a MessageName with a pointer receiver
	// counts for both.
	if n, ok := reflect.New(elem).Interface().(Named); ok {
		name, err := callName(n, t)
		if err != nil {
			return "", err
		}
		if err := checkName(name); err != nil {
			return "", errorf(CodeInvalid, "", name, "%v.MessageName: %w", t, err)
		}
		return name, nil
	}
	switch {
	case elem.Kind() == reflect.Slice && elem.Name() == "":
		return "", errorf(CodeInvalid, "", "", "%v is a slice: send its elements one by one, or use PublishAll", t)
	case elem.Name() == "" || elem.PkgPath() == "":
		return "", errorf(CodeInvalid, "", "", "%v has no name of its own: use a named type, or give it a MessageName method", t)
	case strings.Contains(elem.Name(), "["):
		return "", errorf(CodeInvalid, "", "", "%v is generic and its name depends on its type arguments: give it a MessageName method", t)
	}
	pkg, typ, _ := strings.Cut(elem.String(), ".")
	name := snake(pkg) + "." + snake(typ)
	if err := checkName(name); err != nil {
		return "", errorf(CodeInvalid, "", name, "%v: %w; give it a MessageName method", t, err)
	}
	return name, nil
}

// callName asks n for its name; a MessageName that panics on a fresh value is
// the caller's mistake, not the end of the process.
func callName(n Named, t reflect.Type) (name string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errorf(CodeInvalid, "", "", "%v.MessageName panics on an empty value: %v", t, r)
		}
	}()
	return n.MessageName(), nil
}

// snake turns HTTPServerV2 into http_server_v2. A capital is a letter that has
// a small one: some scripts have capitals without (U+03D3 is one), and those
// stay as they are.
func snake(s string) string {
	var b strings.Builder
	rs := []rune(s)
	for i, r := range rs {
		if isCapital(r) {
			prevLower := i > 0 && (unicode.IsLower(rs[i-1]) || unicode.IsDigit(rs[i-1]))
			nextLower := i > 0 && i+1 < len(rs) && isCapital(rs[i-1]) && unicode.IsLower(rs[i+1])
			if prevLower || nextLower {
				b.WriteByte('_')
			}
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}

func isCapital(r rune) bool { return unicode.ToLower(r) != r }

func checkName(name string) error {
	if len(name) > MaxNameLen {
		return fmt.Errorf("wire name of %d bytes is over the limit of %d", len(name), MaxNameLen)
	}
	for token := range strings.SplitSeq(name, ".") {
		if token == "" || !isToken(token) {
			return fmt.Errorf("wire name %q is not made of dotted tokens of [a-z0-9_-]", name)
		}
	}
	return nil
}

func checkGroup(group string) error {
	if group == "" || len(group) > MaxGroupLen || !isToken(group) {
		return fmt.Errorf("group %q is not 1 to %d characters of [a-z0-9_-]", group, MaxGroupLen)
	}
	return nil
}

func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}
