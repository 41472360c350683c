// Package transport is the seam between the bus and what carries its messages.
//
// A driver moves messages and settles deliveries. It runs no user code and
// retries no handler: retries, dead-lettering, keep-alive, concurrency,
// decoding and middleware live once, in the bus. Two drivers come with the
// project, transport/memory and transport/nats; a third party proves its own
// with the suite in transport/transporttest.
//
// What every driver promises:
//
//  1. Serve and Subscribe are live when they return: what is sent afterwards
//     is seen.
//  2. Publish returning nil means that every message is stored.
//  3. Every group sees every event of its name at least once, from the moment
//     it first subscribed (or from its Start), across readers that come and go.
//  4. A request reaches one server of its exact address, or fails at once with
//     ErrNoHandler.
//  5. Messages are handed over byte for byte: address, id, envelope, headers
//     (case-sensitive, several values per key, empty values) and body.
//  6. Closing a source loses nothing: unclaimed deliveries go back to the group
//     at once and do not count as delivered, and unclaimed requests are drained.
//
// Every method is safe for concurrent use unless it says otherwise. A ctx bounds
// the call that it is passed to and nothing after it. A driver keeps no
// reference to a message or a slice after the call that received it, and what
// it hands out belongs to the receiver; the exception is a driver that
// implements [InProcess]: the messages that it hands out, and their values, are
// shared and read-only, and it may keep those that are Fresh.
package transport

import (
	"context"
	"time"
)

// Transport is what a driver implements. The bus owns the transport that it is
// given and closes it, unless the driver says otherwise.
type Transport interface {
	// Request sends m to one of the servers of m.To and returns the reply of
	// that server. ErrNoHandler: nobody serves the address; nothing ran.
	// ErrBusy, ErrStopping: a server refused before running anything.
	// ErrUnavailable: not sent; nothing ran. context.DeadlineExceeded and
	// context.Canceled: the outcome is unknown. The deadline of ctx travels
	// with the message as the time that remains.
	Request(ctx context.Context, m *Message) (*Message, error)

	// Serve starts to serve the endpoint's address. Servers of one address
	// compete, in this process and in others.
	Serve(ctx context.Context, e Endpoint) (Source[Request], error)

	// Publish stores events and returns once all are stored. An event whose ID
	// was stored for the same address within the dedup window counts as stored.
	// Messages of one Key are stored in the order given. When not all are
	// stored it returns a *PublishError with the outcome of each message. A
	// driver retries with the same ID until ctx ends where the outcome is
	// unknown or the refusal passes. Messages that name a group in To are seen
	// by that group only.
	Publish(ctx context.Context, m ...*Message) error

	// Subscribe starts to read events. Readers of one group compete; a private
	// reader (no group) gets a copy of each event published while it lives.
	Subscribe(ctx context.Context, s Subscription) (Source[Delivery], error)

	// DeadLetters is where messages go that could not be handled.
	DeadLetters() DeadLetters

	// Store holds what processes must agree on.
	Store() Store

	// Close closes every source and releases what the driver owns. Calls in
	// progress and later calls return ErrClosed. A second Close returns nil.
	Close(ctx context.Context) error
}

// InProcess is implemented by a driver that may keep all messages inside this
// process. When it reports true, the bus passes Go values by reference in
// Message.Value, without a codec, and may call a handler of this process
// without a Request.
type InProcess interface {
	InProcess() bool
}

// Locator is implemented by a driver whose broker has names for the places where
// messages pass, such as subjects, so that people who look at the broker find the
// handlers of the bus there. The bus shows these names and does nothing else with
// them.
type Locator interface {
	// Locate returns the places where the handlers of a hear their messages. kind
	// is "command" or "event", as in DeadLetter. An event's a.Group names a group,
	// or is "" for a private reader, which a.Session may limit, as in Subscription.
	// nil: a is not valid, or kind is another. Locate asks no broker, and works on
	// a closed transport too.
	Locate(kind string, a Address) []string
}

// HealthChecker is implemented by a driver that knows how it and its broker are.
type HealthChecker interface {
	// Health returns what the driver can check, in the same order each time. It may
	// ask the broker, within ctx: what it does not learn by then is a check that
	// fails. It works on a closed transport too.
	Health(ctx context.Context) []Check
}

// Check is one thing that is well or not.
type Check struct {
	// Name tells it from the others: [a-z_].
	Name string
	// Err is why it is not well; Usable says that the transport works all the same.
	// Neither has a secret in its text.
	Err    error
	Usable bool
	// Note is what is worth knowing of it though it is well.
	Note string
}

// CatchUpper is implemented by the source of a private reader. The bus closes a
// session only after its listeners have seen what was published in it.
type CatchUpper interface {
	// CatchUp waits for the events of the subscription that were stored before the
	// call: those whose Publish had returned, except delayed ones that no reader
	// could get yet. It returns nil once Next has handed out each of them, and all
	// but left of those deliveries are settled for good: acked or terminated. What
	// was nak'd or released is still to be handed out, again. An event that the
	// driver gives up, because it is no longer stored or by the driver's bound on
	// what may wait, is not waited for any more.
	//
	// Events stored later are not waited for, and their deliveries do not count
	// against left; a driver that has to ask its broker may take those in that are
	// stored while it asks. A negative left is 0. Several goroutines may be in
	// CatchUp at once.
	//
	// ErrClosed: the source is or was closed meanwhile. An error that is ctx's: not
	// yet. Any other error: the broker refuses to tell what is stored.
	CatchUp(ctx context.Context, left int) error
}

// Misser is implemented by a delivery of a driver whose private readers lose events
// when they fall behind.
type Misser interface {
	// Missed is how many events the reader has lost since the delivery before.
	Missed() int
}

// Address says whose handlers a message is for.
type Address struct {
	// Session is the session id, any UTF-8 text; "" is the scope of the bus.
	Session string
	// Name is the wire name of the command or event: dotted tokens of
	// [a-z0-9_-].
	Name string
	// Group, set on an event only, limits the message to one group: [a-z0-9_-].
	Group string
}

// Message is one command, reply or event on its way.
type Message struct {
	To Address

	// ID is unique to the message. An event's ID is also its dedup id,
	// scoped to the address; "" is stored without dedup.
	ID string
	// Fresh says that ID was made for this message, so that only a driver that
	// sends twice by itself needs to remember it, and that the message was made for
	// one call of Publish: a driver that is InProcess may keep it and set its
	// SentAt. Its sender changes it no more.
	Fresh bool
	// Key orders events: those of one key are stored one at a time. It travels.
	Key string
	// Session is the session that the message belongs to. It equals To.Session
	// except for a command that fell back to the bus's handler.
	Session string
	// CorrelationID is shared by everything that one first message caused, and
	// CausationID is the ID of the message whose handling sent this one.
	CorrelationID, CausationID string
	// SentAt is the sender's clock when it was sent, for people only. An event
	// that has none gets the time at which the driver stored it.
	SentAt time.Time
	// ContentType names the codec of Body, as a media type; "" means JSON.
	ContentType string

	// Header carries the user's headers, and the bus's own under HeaderPrefix.
	Header Header
	// Body is the encoded message and nothing else.
	Body []byte
	// Value replaces Body with a driver that is InProcess. It is read-only.
	Value any

	// Malformed is set by a driver on a message that it received and that breaks
	// the wire contract, so that what the other fields say cannot be trusted.
	// The bus dead-letters it unrun.
	Malformed error

	// DeliverAt delays an event: it is delivered at that time or soon after,
	// never before. The zero time means now. On a delivery to a group it is about
	// when a delayed event was due, for people and gauges only.
	DeliverAt time.Time
}

// HeaderPrefix is reserved for the bus and its drivers.
const HeaderPrefix = "Jitney-"

// Header holds a message's headers. Keys are case-sensitive.
type Header map[string][]string

// Get returns the first value of key, or "".
func (h Header) Get(key string) string {
	if v := h[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// Set replaces the values of key.
func (h Header) Set(key, value string) { h[key] = []string{value} }

// Add appends a value to key.
func (h Header) Add(key, value string) { h[key] = append(h[key], value) }

// Clone returns a deep copy; nil stays nil.
func (h Header) Clone() Header {
	if h == nil {
		return nil
	}
	c := make(Header, len(h))
	for k, v := range h {
		c[k] = append([]string(nil), v...)
	}
	return c
}

// Endpoint is what a server serves.
type Endpoint struct {
	// Address is matched exactly; its Group is empty.
	Address
	// Backlog is how many requests may wait for Next. One more is refused
	// with ErrBusy at once. Default 256.
	Backlog int
}

// Start says where a new group begins. The zero value is at events published
// from now on. It has no effect on a group that exists.
type Start struct {
	// All begins with the oldest event that is stored.
	All bool
	// Since begins with the first event stored at or after that time.
	Since time.Time
}

// Subscription says what a reader reads.
type Subscription struct {
	// Name is the wire name of the event.
	Name string
	// Session limits a private reader to the events of one session; "" reads
	// those of every session and of the bus. A group has no session.
	Session string
	// Group is the durable group that the reader joins; "" is a private reader.
	Group string
	// Start is where a group that does not exist yet begins.
	Start Start
	// AckWait is how long a delivery may stay unsettled and unextended before
	// the group gets it again. Default 30 s. A private reader has none.
	AckWait time.Duration
	// MaxAckPending is how many deliveries of the whole group may be unsettled.
	// Default 10,000.
	MaxAckPending int
	// Prefetch is how many deliveries may wait for Next. Default 32.
	Prefetch int
}

// Source hands out items one at a time.
type Source[T any] interface {
	// Next returns the next item, ErrClosed after Close, or ctx's error. Several
	// goroutines may wait in it. Another error is passing: the caller may call
	// again, and the driver has waited as long as was sensible.
	Next(ctx context.Context) (T, error)
	// Close stops the intake and wakes every Next. A source of deliveries hands
	// those not yet returned by Next back to the group now, as Release does. A
	// source of requests answers what Next had not returned with ErrStopping,
	// having first seen everything that was sent to it. What Next returned
	// before stays the caller's to settle. A second Close returns nil.
	Close(ctx context.Context) error
}

// Request is one command to serve.
type Request interface {
	Message() *Message
	// Deadline is when the caller gives up, by this process's clock; the zero
	// time means never.
	Deadline() time.Time
	// Reply answers the caller. A second Reply returns ErrSettled.
	Reply(ctx context.Context, m *Message) error
}

// Delivery is one copy of an event, to be settled once by Ack, Nak, Release or
// Term. A second settlement returns ErrSettled and has no effect. A settlement
// that fails otherwise leaves the delivery unsettled; it may be tried again.
type Delivery interface {
	Message() *Message
	// Deliveries counts how often the group was handed this event, from 1; copies
	// handed back by Release or by closing a source do not count.
	Deliveries() int
	// Sequence is the event's place in the driver's log; 0 if it has none.
	Sequence() uint64
	// Lease is until when the copy is surely this reader's, by this process's
	// clock: 0.8 × AckWait after it was received or last extended. Past it another reader may
	// have it, and the driver sends no settlement: Ack, Nak, Release, Term and
	// Extend return ErrLeaseLost. The zero time (a private delivery) never ends.
	Lease() time.Time
	// Ack settles: handled.
	Ack(ctx context.Context) error
	// Nak settles: failed; the group gets it again after delay, which counts as
	// a delivery.
	Nak(ctx context.Context, delay time.Duration) error
	// Release settles: not run; the group gets it again at once, which does not
	// count as a delivery.
	Release(ctx context.Context) error
	// Term settles: never again for this group.
	Term(ctx context.Context, reason string) error
	// Extend restarts AckWait; nil means that the broker confirmed.
	Extend(ctx context.Context) error
}
