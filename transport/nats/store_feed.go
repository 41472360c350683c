package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// feedHeartbeat is how often an idle feed says which message was its last,
	// so that a lost one is noticed.
	feedHeartbeat = 5 * time.Second
	// feedSilence is how long a feed may say nothing before it is taken for dead.
	feedSilence = 2*feedHeartbeat + 2*time.Second
	// feedInactive is when the server forgets a feed that nobody listens to.
	feedInactive = 30 * time.Second
	// What may wait between the connection and the reader; more breaks the feed.
	feedPendingMsgs  = 1 << 16
	feedPendingBytes = 32 << 20
)

// hdrLastConsumer is in heartbeats: the number of the last message delivered.
const hdrLastConsumer = "Nats-Last-Consumer"

// errFeedLost is a feed that no longer delivers everything.
var errFeedLost = errors.New("messages were lost")

// feed is an ephemeral push consumer: it delivers the last message of each
// subject, then each new message as it is stored. It is read by one goroutine
// and ends with the first message that is missing.
type feed struct {
	js      jetstream.JetStream
	sub     *nats.Subscription
	stream  string
	name    string
	pending uint64 // how many messages there were at the start
	seq     uint64 // how many were read
}

func openFeed(ctx context.Context, js jetstream.JetStream, stream string, filters []string) (*feed, error) {
	nc := js.Conn()
	sub, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		return nil, err
	}
	f := &feed{js: js, sub: sub, stream: stream}
	if err = sub.SetPendingLimits(feedPendingMsgs, feedPendingBytes); err == nil {
		var c jetstream.PushConsumer
		c, err = js.CreatePushConsumer(ctx, stream, jetstream.ConsumerConfig{
			DeliverSubject:    sub.Subject,
			DeliverPolicy:     jetstream.DeliverLastPerSubjectPolicy,
			AckPolicy:         jetstream.AckNonePolicy,
			FilterSubjects:    filters,
			IdleHeartbeat:     feedHeartbeat,
			InactiveThreshold: feedInactive,
			MemoryStorage:     true,
			Replicas:          1,
		})
		if err == nil {
			f.name, f.pending = c.CachedInfo().Name, c.CachedInfo().NumPending
			return f, nil
		}
	}
	_ = sub.Unsubscribe()
	return nil, err
}

// next returns the next message, or none when the server says that none is left.
func (f *feed) next(ctx context.Context) (*nats.Msg, *nats.MsgMetadata, error) {
	ctx, cancel := context.WithTimeout(ctx, feedSilence)
	defer cancel()
	m, err := f.sub.NextMsgWithContext(ctx)
	if err != nil {
		return nil, nil, err
	}
	if m.Subject == f.sub.Subject { // a word of the server's; a message has the subject of its key
		last, err := strconv.ParseUint(m.Header.Get(hdrLastConsumer), 10, 64)
		if err != nil || last != f.seq {
			return nil, nil, fmt.Errorf("%w: %d delivered, %d arrived", errFeedLost, last, f.seq)
		}
		return nil, nil, nil
	}
	md, err := m.Metadata()
	if err != nil {
		return nil, nil, err
	}
	if f.seq++; md.Sequence.Consumer != f.seq {
		return nil, nil, fmt.Errorf("%w: message %d of the feed came as %d", errFeedLost, md.Sequence.Consumer, f.seq)
	}
	return m, md, nil
}

// close ends the feed. The server forgets it by itself if it is not told.
func (f *feed) close() {
	_ = f.sub.Unsubscribe()
	ctx, cancel := context.WithTimeout(context.Background(), callFirst)
	defer cancel()
	_ = f.js.DeleteConsumer(ctx, f.stream, f.name)
}
