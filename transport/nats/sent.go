package nats

import (
	"context"
	"slices"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// sentSubjects are the subjects that one call has sent to: the server names a
// subject that it refuses, and no call.
type sentSubjects struct {
	mu  sync.Mutex
	all []string
}

func (s *sentSubjects) add(subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.all, subject) {
		s.all = append(s.all, subject)
	}
}

func (s *sentSubjects) has(subject string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.all, subject)
}

// notingStream is a jetstream.JetStream that notes what is sent through it before
// it is sent.
type notingStream struct {
	jetstream.JetStream
	sent *sentSubjects
}

// noting returns js for one call, which notes its subjects in sent.
func noting(js jetstream.JetStream, sent *sentSubjects) (notingStream, error) {
	trace := &jetstream.ClientTrace{RequestSent: func(subject string, _ []byte) { sent.add(subject) }}
	opt := jetstream.WithClientTrace(trace)
	var noted jetstream.JetStream
	var err error
	switch o := js.Options(); {
	case o.APIPrefix != "":
		noted, err = jetstream.NewWithAPIPrefix(js.Conn(), o.APIPrefix, opt)
	case o.Domain != "":
		noted, err = jetstream.NewWithDomain(js.Conn(), o.Domain, opt)
	default:
		noted, err = jetstream.New(js.Conn(), opt)
	}
	return notingStream{noted, sent}, err
}

// PublishMsg implements jetstream.JetStream.
func (n notingStream) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	n.sent.add(m.Subject)
	return n.JetStream.PublishMsg(ctx, m, opts...)
}

// noteSent notes a subject that is about to be sent to past js, on its connection.
func noteSent(js jetstream.JetStream, subject string) {
	if n, ok := js.(notingStream); ok {
		n.sent.add(subject)
	}
}
