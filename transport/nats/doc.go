// Package nats is the NATS JetStream driver: a [transport.Transport] over one
// NATS server or a cluster.
//
// Commands are core request/reply with one queue group. Events are stored in
// one durable stream per namespace and read through one durable pull consumer
// per group and event name; private readers get the republished copy over a core
// subscription. Streams, consumers and the state bucket are created by [Open] and
// Subscribe, or bound only when operators own them ([Config.BindOnly]).
//
// What is on the way is bounded: at most 1,024 publishes of one transport wait for the
// server at once, further ones wait for their turn until their ctx ends. A reader of a
// group holds as many events as Subscription.Prefetch says, which the bus sets to
// twice its workers; an eighth of them is for those addressed to the group alone.
//
// # Wire contract
//
// Another program, in any language, can take part without this package. The
// body of a message is the encoded command, event or result and nothing else;
// everything about it is in its subject and headers. With the default namespace
// the subjects are
//
//	jitney.cmd.<scope>.<name>    request a command; serve it with queue group "jitney"
//	jitney.evt.<scope>.<name>    publish an event
//	jitney.live.<scope>.<name>   hear events as they are stored, without a consumer
//
// where <scope> is "_" or the token of a session id: letters, digits, "-" and "_"
// as they are, every other byte as "=" and two upper-case hexadecimal digits, and
// the session id "_" itself as "=5F". <name> is dotted tokens of [a-z0-9_-].
//
// All headers are optional; each has one value; a message without any is legal:
//
//	nats pub jitney.evt._.user.created '{"UserID":"u1"}'
//
//	Nats-Msg-Id            on events: "<id>@<scope>.<name>", the message's id and the
//	                       server's dedup id in one. A value of another form is an id
//	                       as it stands; one that begins with "@" is a dedup id of a
//	                       message without an id.
//	Jitney-Id              the message's id, where Nats-Msg-Id does not carry it
//	Jitney-Key             the ordering key
//	Jitney-Session         the session id as text, where the scope token does not show it
//	                       as it is; on a retry copy, which has no token; and on a
//	                       command of a session that is addressed to the bus. Beside a
//	                       token it must agree with it.
//	Jitney-Correlation     the correlation id; absent means the message's own id
//	Jitney-Causation       the causation id
//	Jitney-Sent            when it was sent, RFC 3339 with fractions
//	Jitney-Timeout         on commands: how many milliseconds the caller still waits
//	Jitney-Status          on replies: "busy" or "stopping"; nothing ran
//	Jitney-Escaped         "1": the values of all headers but Nats-* are percent-encoded
//	                       (%XX), because one of them has a line break, a control
//	                       character or an outer space
//	Content-Type           the media type of the body; absent means application/json
//
// This driver's own requests mostly have no headers at all: their reply subject
// ends in ".J-<token>.<number>.<milliseconds>.<id>", which stands for
// Jitney-Timeout (0: none) and Jitney-Id. Where a server maps requests between
// accounts it replaces reply subjects, and with them these two.
//
// Every other header belongs to the user or, with the prefix "Jitney-", to the
// bus, and arrives as it was sent. Headers that begin with "Nats-" are the
// server's. A message that breaks the contract is handed to the bus with
// [transport.Message] Malformed set; it never stops a reader.
package nats
