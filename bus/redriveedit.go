package bus

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/transport"
)

// WithEdit changes each message before it goes back: edit gets it as an E, which is a
// type of the dead letter's name or a pointer to one, and returns what goes instead.
//
//	bus.WithEdit(func(e UserCreated) (UserCreated, error) {
//		e.Email = strings.TrimSpace(e.Email)
//		return e, nil
//	})
//
// What comes of it is validated, and encoded in the codec of the message. The dead
// letter stays as it is until the copy is stored; the copy, and the dead letter if it
// fails again, are marked as edited. What encodes as it did before is no edit.
//
// edit runs on the caller's goroutine, also for WithDryRun, and must not change what
// an E's pointers, maps and slices refer to: they may be shared. Its error, or panic,
// is that of the result, and of RedriveAll only if ctx has ended. ErrNotRedrivable: the
// dead letter has another name, or cannot be decoded; WithBodyEdit mends that.
//
// Two redrives that edit one dead letter in different ways, by two people or after an
// interruption, cannot both have their way: the later one is refused with CodeConflict.
// Of several edits each sees what the one before has made.
func WithEdit[E any](edit func(E) (E, error)) RedriveOption {
	return redriveOption(func(o *redriveOptions) {
		if edit == nil {
			o.bad("the function of WithEdit is nil")
			return
		}
		o.edits = append(o.edits, func(d DeadLetter) (c content, err error) {
			e, err := DeadLetterValue[E](d)
			if err != nil {
				return c, &uneditableError{err}
			}
			defer recovered(&err)
			c.value, err = edit(detached(e))
			return c, err
		})
	})
}

// WithBodyEdit is WithEdit for the encoded message, with the media type of its codec,
// where it cannot be decoded or its type is not known here. edit gets a copy of the
// body. What it returns is decoded and validated if the type is known here.
func WithBodyEdit(edit func(contentType string, body []byte) (newType string, newBody []byte, err error)) RedriveOption {
	return redriveOption(func(o *redriveOptions) {
		if edit == nil {
			o.bad("the function of WithBodyEdit is nil")
			return
		}
		o.edits = append(o.edits, func(d DeadLetter) (c content, err error) {
			body, err := d.Body()
			if err != nil {
				return c, &uneditableError{err}
			}
			defer recovered(&err)
			c.contentType, c.body, err = edit(d.ContentType, body)
			return c, err
		})
	})
}

// content is what an edit makes of a message: a value, or a body.
type content struct {
	value       any
	contentType string
	body        []byte
}

// uneditableError is that of a message which an edit does not fit.
type uneditableError struct{ err error }

func (e *uneditableError) Error() string { return e.err.Error() }
func (e *uneditableError) Unwrap() error { return e.err }

// detached is e, or for a pointer one to a copy of what it points to.
func detached[E any](e E) E {
	if v := reflect.ValueOf(e); v.Kind() == reflect.Pointer && !v.IsNil() {
		return pointerTo(v.Elem().Interface()).(E)
	}
	return e
}

// edit makes the edits of a message that is about to go back. It returns a digest of
// what came of them, "" if that is what it was.
func (r *redriver) edit(d DeadLetter, m *transport.Message) (string, error) {
	if len(r.o.edits) == 0 {
		return "", nil
	}
	b := r.d.b
	before := b.contentDigest(m)
	for _, edit := range r.o.edits {
		rec := *d.rec
		rec.Message = m
		c, err := edit(b.deadLetter(&rec))
		if err == nil {
			err = b.edited(d.Name, m, c)
		}
		var not *uneditableError
		switch {
		case errors.As(err, &not):
			return "", r.refuse(d, CodeInvalid, err, err.Error()+"; WithBodyEdit takes it as it is")
		case err != nil:
			return "", r.failedEdit(d, err)
		}
	}
	after := b.contentDigest(m)
	switch after {
	case "":
		return b.ids.next(), nil // like no other
	case before:
		return "", nil
	}
	return after, nil
}

// contentDigest is the same for messages that are encoded alike, and "" for one that
// cannot be.
func (b *Bus) contentDigest(m *transport.Message) string {
	if m.Value == nil {
		return digest("content", m.ContentType, string(m.Body))
	}
	body, err := codec.Encode(b.cfg.Codec, m.Value)
	if err != nil {
		return ""
	}
	return digest("value", string(body))
}

// failedEdit is the error of an edit that the message or its editor refuses. It says
// nothing of the transport, whatever it is.
func (r *redriver) failedEdit(d DeadLetter, err error) error {
	code := codeOfRun(err)
	if code != CodeInvalid && code != CodePanic {
		code = CodeFailed
	}
	return &Error{Code: code, Op: r.op, Name: d.Name, ID: d.MessageID, Message: fmt.Sprintf("%s: edit: %v", d.ID, err), cause: err}
}

// edited puts an edited content into m.
func (b *Bus) edited(name string, m *transport.Message, c content) error {
	if c.value == nil && c.contentType == "" && c.body == nil {
		return errorf(CodeInvalid, "", "", "nothing is left of the message")
	}
	if c.value == nil {
		return b.editedBody(name, m, c)
	}
	info, err := b.typeOf(c.value, "")
	switch {
	case isNil(c.value):
		return errorf(CodeInvalid, "", "", "the message is nil")
	case err != nil:
		return err
	}
	if err := info.validate("", c.value); err != nil {
		return err
	}
	if b.inProcess {
		m.Value, m.Body, m.ContentType = c.value, nil, ""
		return nil
	}
	enc, err := b.codecs.Lookup(m.ContentType)
	if err != nil {
		enc = b.cfg.Codec
	}
	m.ContentType = ""
	return b.encodeWith(enc, "", "", c.value, m)
}

func (b *Bus) editedBody(name string, m *transport.Message, c content) error {
	if err := checkHeader("Type", c.contentType); err != nil {
		return errorf(CodeInvalid, "", "", "content type %q: %w", c.contentType, err)
	}
	if c.contentType == codec.JSON.ContentType() {
		c.contentType = ""
	}
	if info := b.types.named(name); info != nil {
		v, err := b.decodeNew(info, c.contentType, c.body)
		if err != nil {
			return err
		}
		if err := info.validate("", v); err != nil {
			return err
		}
	}
	m.Value, m.Body, m.ContentType = nil, c.body, c.contentType
	return nil
}
