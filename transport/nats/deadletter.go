package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-bus/jitney/transport"
)

const (
	defaultPage = 100
	maxDeadID   = 128 // bytes of a dead letter's id
	// publishRoom is what the headers of the publish itself take of a message.
	publishRoom = 1 << 10
	// strayID begins the ids that records get which this driver did not write,
	// followed by their sequence, so that they can be listed and removed.
	strayID = "_seq-"
)

// deadLetters is the transport's DeadLetters on a stream of their own, which
// refuses new ones when it is full, or drops the oldest.
//
// A record's subject is <ns>.dlq.<id>.<kind>.<group or _>.<name or _>, so that an
// operator can filter; its body is the original's, and its headers are the
// original's and those of record.go. The server stores a record only if it has
// none of the same id, so that adding is safe to repeat.
type deadLetters struct {
	c      *caller
	names  names
	stream string
	log    *slog.Logger
	bounds deadBounds
}

func newDeadLetters(c *caller, n names, log *slog.Logger) *deadLetters {
	return &deadLetters{c: c, names: n, stream: n.deadLetters(), log: log}
}

func (d *deadLetters) Add(ctx context.Context, dl *transport.DeadLetter) error {
	if err := checkDeadLetter(dl); err != nil {
		return fmt.Errorf("add dead letter: %w", err)
	}
	doing := fmt.Sprintf("add dead letter %q", dl.ID)
	risk := d.atRisk(ctx, len(dl.Message.Body)+recordHeaders)
	err := d.c.try(ctx, doing, func(ctx context.Context, js jetstream.JetStream) error {
		m := &nats.Msg{Subject: d.subject(dl)}
		m.Header, m.Data = encodeRecord(dl, int(js.Conn().MaxPayload())-publishRoom)
		m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, "0")
		m.Header.Set(jetstream.ExpectedLastSubjSeqSubjHeader, d.below(dl.ID))
		_, err := js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
		if !isWrongSequence(err) && kindOf(err) != transport.ErrBacklog {
			return err
		}
		// Refused, as it is there, is being added by somebody else, or is one too
		// many: which of these is for the leader to say.
		_, readErr := fromLeader(ctx, js, d.stream, msgRequest{LastFor: d.below(dl.ID)})
		switch {
		case readErr == nil:
			return nil
		case isNoMessage(readErr) && isWrongSequence(err):
			return errInFlight
		case isNoMessage(readErr):
			return err
		}
		return readErr
	})
	if err == nil {
		d.tellDropped(ctx, risk)
	}
	return err
}

func (d *deadLetters) Get(ctx context.Context, id string) (*transport.DeadLetter, error) {
	doing := fmt.Sprintf("get dead letter %q", id)
	m, err := d.find(ctx, doing, id)
	if err != nil {
		return nil, err
	}
	return d.decode(m), nil
}

// Remove implements transport.DeadLetters.
func (d *deadLetters) Remove(ctx context.Context, id string) error {
	doing := fmt.Sprintf("remove dead letter %q", id)
	m, err := d.find(ctx, doing, id)
	if errors.Is(err, transport.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return d.c.try(ctx, doing, func(ctx context.Context, js jetstream.JetStream) error {
		st, err := js.Stream(ctx, d.stream)
		if err != nil {
			return err
		}
		err = st.DeleteMsg(ctx, m.Sequence)
		if err == nil {
			return nil
		}
		// It may be gone: removed by an earlier try or by somebody else.
		if _, readErr := fromLeader(ctx, js, d.stream, msgRequest{Seq: m.Sequence}); isNoMessage(readErr) {
			return nil
		}
		return err
	})
}

// find reads a record from the leader. ErrNotFound: there is none.
func (d *deadLetters) find(ctx context.Context, doing, id string) (*jetstream.RawStreamMsg, error) {
	req := msgRequest{LastFor: d.below(id)}
	if s, ok := strings.CutPrefix(id, strayID); ok {
		seq, err := strconv.ParseUint(s, 10, 64)
		if err != nil || seq == 0 {
			return nil, fmt.Errorf("%s: %w", doing, transport.ErrNotFound)
		}
		req = msgRequest{Seq: seq}
	} else if err := checkDeadID(id); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	var m *jetstream.RawStreamMsg
	err := d.c.try(ctx, doing, func(ctx context.Context, js jetstream.JetStream) (err error) {
		m, err = fromLeader(ctx, js, d.stream, req)
		return err
	})
	if err == nil && d.idOf(m) != id {
		err = fmt.Errorf("%s: %w", doing, transport.ErrNotFound)
	}
	return m, err
}

func (d *deadLetters) decode(m *jetstream.RawStreamMsg) *transport.DeadLetter {
	dl := decodeRecord(m.Header, m.Data)
	dl.ID, dl.Sequence = d.idOf(m), m.Sequence
	if strings.HasPrefix(dl.ID, strayID) && dl.Message.Malformed == nil {
		dl.Message.Malformed = fmt.Errorf("%w dead letter: its subject is %q", transport.ErrInvalid, m.Subject)
	}
	return dl
}

// subject returns where dl is stored.
func (d *deadLetters) subject(dl *transport.DeadLetter) string {
	group, name := dl.Group, dl.Message.To.Name
	if checkToken("group", group, maxGroup) != nil {
		group = "_"
	}
	if checkName(name) != nil {
		name = "_" // what failed may have come with any name
	}
	return d.names.ns + ".dlq." + dl.ID + "." + dl.Kind + "." + group + "." + name
}

// below returns the filter for what has an id.
func (d *deadLetters) below(id string) string { return d.names.ns + ".dlq." + id + ".>" }

// idOf returns the id of a record, which is in its subject.
func (d *deadLetters) idOf(m *jetstream.RawStreamMsg) string {
	rest, ok := strings.CutPrefix(m.Subject, d.names.ns+".dlq.")
	id, rest, more := strings.Cut(rest, ".")
	if !ok || !more || rest == "" || checkDeadID(id) != nil {
		return strayID + strconv.FormatUint(m.Sequence, 10)
	}
	return id
}

func checkDeadLetter(dl *transport.DeadLetter) error {
	switch {
	case dl == nil || dl.Message == nil:
		return fmt.Errorf("%w: it has no message", transport.ErrInvalid)
	case dl.Message.Value != nil:
		return fmt.Errorf("%w: its message has a Value, and only bodies are carried", transport.ErrInvalid)
	}
	if err := checkToken("kind", dl.Kind, maxGroup); err != nil {
		return err
	}
	return checkDeadID(dl.ID)
}

// checkDeadID says whether id is one that Add takes: [A-Za-z0-9_-].
func checkDeadID(id string) error {
	ok := id != "" && len(id) <= maxDeadID && !strings.HasPrefix(id, strayID)
	for i := range len(id) {
		ok = ok && isPlain(id[i])
	}
	if !ok {
		return fmt.Errorf("%w id %q: it needs 1 to %d characters of [A-Za-z0-9_-] and does not begin with %q",
			transport.ErrInvalid, id, maxDeadID, strayID)
	}
	return nil
}
