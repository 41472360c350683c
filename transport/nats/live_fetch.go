package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Headers that the server adds to what it republishes and to what it reads out
// of a stream. A publisher can have set them as well; the server's come last.
const (
	hdrStream       = "Nats-Stream"
	hdrSubject      = "Nats-Subject"
	hdrSequence     = "Nats-Sequence"
	hdrPending      = "Nats-Num-Pending"
	hdrLastSequence = "Nats-Last-Sequence"
)

// errMalformedAnswer is an answer of the server that this driver cannot read.
var errMalformedAnswer = errors.New("the server's answer is malformed")

// lastHeader returns the last value of a header.
func lastHeader(h nats.Header, key string) string {
	v := h[key]
	if len(v) == 0 {
		return ""
	}
	return v[len(v)-1]
}

// sequenceOf reads a header that holds a sequence.
func sequenceOf(h nats.Header, key string) (uint64, error) {
	seq, err := strconv.ParseUint(lastHeader(h, key), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("header %s: %w", key, err)
	}
	return seq, nil
}

// msgRequest asks a stream for messages: the one at Seq, the last of LastFor, or
// the next of NextFor from Seq on.
type msgRequest struct {
	Seq      uint64 `json:"seq,omitempty"`
	LastFor  string `json:"last_by_subj,omitempty"`
	NextFor  string `json:"next_by_subj,omitempty"`
	Batch    int    `json:"batch,omitempty"`
	MaxBytes int    `json:"max_bytes,omitempty"`
}

// fromLeader reads one message from the stream's leader, which has everything
// that was acknowledged. A jetstream.APIError says that there is none.
func fromLeader(ctx context.Context, js jetstream.JetStream, stream string, req msgRequest) (*jetstream.RawStreamMsg, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	subject := apiPrefix(js) + "STREAM.MSG.GET." + stream
	noteSent(js, subject)
	resp, err := js.Conn().RequestWithContext(ctx, subject, body)
	if err != nil {
		return nil, err
	}
	var got struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Hdrs    []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(resp.Data, &got); err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformedAnswer, err)
	}
	if got.Error != nil {
		return nil, got.Error
	}
	m := &jetstream.RawStreamMsg{Subject: got.Message.Subject, Sequence: got.Message.Seq, Data: got.Message.Data, Time: got.Message.Time}
	if len(got.Message.Hdrs) > 0 {
		if m.Header, err = nats.DecodeHeadersMsg(got.Message.Hdrs); err != nil {
			m.Header = unreadable
		}
	}
	return m, nil
}

// isNoMessage says whether fromLeader found nothing.
func isNoMessage(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeMessageNotFound
}

// fromReplica reads up to req.Batch messages in order from any replica of the
// stream, which may lag behind the leader but leaves nothing out in between. It
// also counts how many match from req.Seq on.
//
// What the replica says of a message is among the message's own headers. At one whose
// headers are not whole it ends with errMalformedAnswer and those before.
func fromReplica(ctx context.Context, js jetstream.JetStream, stream string, req msgRequest) (all []*jetstream.RawStreamMsg, count uint64, err error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, 0, err
	}
	nc := js.Conn()
	answers := make(chan *nats.Msg, req.Batch+1)
	sub, err := nc.ChanSubscribe(nc.NewInbox(), answers)
	if err != nil {
		return nil, 0, err
	}
	defer sub.Unsubscribe()
	subject := apiPrefix(js) + "DIRECT.GET." + stream
	noteSent(js, subject)
	err = nc.PublishMsg(&nats.Msg{Subject: subject, Reply: sub.Subject, Data: body})
	if err != nil {
		return nil, 0, err
	}
	for {
		var m *nats.Msg
		select {
		case m = <-answers:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
		if len(m.Header[hdrSequence]) == 0 { // no message of the stream
			switch status := m.Header.Get("Status"); status {
			case "204": // the end of the batch
				rest, err := sequenceOf(m.Header, hdrPending)
				return all, uint64(len(all)) + rest, err
			case "404": // nothing there
				return nil, 0, nil
			case "503":
				return nil, 0, nats.ErrNoResponders
			default:
				return all, 0, fmt.Errorf("%w: status %q %s", errMalformedAnswer, status, m.Header.Get("Description"))
			}
		}
		seq, err := sequenceOf(m.Header, hdrSequence)
		if err != nil || !isWhole(m) {
			return all, 0, fmt.Errorf("%w: its headers are not whole: %w", errMalformedAnswer, err)
		}
		all = append(all, &jetstream.RawStreamMsg{
			Subject: lastHeader(m.Header, hdrSubject), Sequence: seq, Header: m.Header, Data: m.Data,
		})
	}
}

// nextMessages reads the next messages of a filter, up to n of them, from any
// replica. None is the leader's word, and so is one whose headers are not whole.
func nextMessages(ctx context.Context, js jetstream.JetStream, stream, filter string, from uint64, n int) ([]*jetstream.RawStreamMsg, error) {
	batch, _, err := fromReplica(ctx, js, stream, msgRequest{NextFor: filter, Seq: from, Batch: n, MaxBytes: liveBatchBytes})
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, errMalformedAnswer) {
		err = nil
	}
	if len(batch) > 0 || err != nil {
		return batch, err
	}
	return nextFromLeader(ctx, js, stream, filter, from)
}

// nextFromLeader reads the next message of a filter, if there is one.
func nextFromLeader(ctx context.Context, js jetstream.JetStream, stream, filter string, from uint64) ([]*jetstream.RawStreamMsg, error) {
	m, err := fromLeader(ctx, js, stream, msgRequest{NextFor: filter, Seq: from})
	if isNoMessage(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", stream, err)
	}
	return []*jetstream.RawStreamMsg{m}, nil
}
