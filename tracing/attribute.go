package tracing

import (
	"fmt"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/jitney-bus/jitney/bus"
)

// The attributes of the semantic conventions, written out: a version of the
// convention's own package would come and go with each of its changes.
const (
	attrSystem       = "messaging.system"
	attrOperation    = "messaging.operation.name"
	attrType         = "messaging.operation.type"
	attrDestination  = "messaging.destination.name"
	attrGroup        = "messaging.consumer.group.name"
	attrMessage      = "messaging.message.id"
	attrConversation = "messaging.message.conversation_id"
	attrBatch        = "messaging.batch.message_count"
	attrError        = "error.type"

	attrHandler    = "jitney.handler"
	attrAttempt    = "jitney.attempt"
	attrSession    = "jitney.session"
	attrGeneration = "jitney.generation"
	attrDelay      = "jitney.delay_ms"

	system = "jitney"
)

// operation is what a span is of.
type operation struct {
	name, kind string
	span       trace.SpanKind
}

var (
	opExecute    = operation{"execute", "send", trace.SpanKindClient}
	opPublish    = operation{"publish", "send", trace.SpanKindProducer}
	opCreate     = operation{"create", "create", trace.SpanKindProducer}
	opStore      = operation{"publish", "send", trace.SpanKindClient}
	opServe      = operation{"handle", "process", trace.SpanKindServer}
	opConsume    = operation{"handle", "process", trace.SpanKindConsumer}
	opRetry      = operation{"retry", "settle", trace.SpanKindClient}
	opDeadLetter = operation{"dead-letter", "settle", trace.SpanKindClient}
)

// attributes returns those of every span, with room for more.
func (o operation) attributes(destination, id, conversation, session string) []attribute.KeyValue {
	kv := append(make([]attribute.KeyValue, 0, 12),
		attribute.String(attrSystem, system), attribute.String(attrOperation, o.name), attribute.String(attrType, o.kind),
		attribute.String(attrDestination, destination))
	kv = text(kv, attrMessage, id)
	kv = text(kv, attrConversation, conversation)
	return text(kv, attrSession, session)
}

// text adds an attribute that is not empty.
func text(kv []attribute.KeyValue, key attribute.Key, value string) []attribute.KeyValue {
	if value == "" {
		return kv
	}
	return append(kv, key.String(value))
}

// handling adds who handles a message.
func handling(kv []attribute.KeyValue, group, handler string, attempt int) []attribute.KeyValue {
	kv = text(kv, attrGroup, group)
	kv = text(kv, attrHandler, handler)
	return append(kv, attribute.Int(attrAttempt, attempt))
}

const (
	maxText  = 1 << 10
	maxStack = 16 << 10
)

// fail makes err the span's status, if there is one.
func fail(span trace.Span, err error) {
	if err == nil || !span.IsRecording() {
		return
	}
	code := string(bus.CodeOf(err))
	exception := []attribute.KeyValue{
		attribute.String("exception.type", fmt.Sprintf("%T", err)),
		attribute.String("exception.message", cut(err.Error(), maxText)),
	}
	if _, stack, ok := bus.PanicOf(err); ok {
		code = string(bus.CodePanic)
		exception = append(exception, attribute.String("exception.stacktrace", cut(stack, maxStack)))
	}
	span.SetAttributes(attribute.String(attrError, code))
	span.SetStatus(codes.Error, cut(err.Error(), maxText))
	span.AddEvent("exception", trace.WithAttributes(exception...))
}

// cut returns the first n bytes of s, as valid UTF-8.
func cut(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}
