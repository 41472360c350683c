package nats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-bus/jitney/transport"
)

// Error codes of the JetStream API that the client has no name for.
const (
	codeResourcesExceeded = 10002 // the account or server is out of storage
	codeInsufficient      = 10023 // insufficient resources
	codeNotAvailable      = 10008 // JetStream is temporarily unavailable
	codeNoPeers           = 10005 // too few servers of the cluster are there
	codeStoreFailed       = 10077 // a limit with discard new, or the store refused
	codeHeaderTooLarge    = 10097
	codeDuplicateInFlight = 10158 // the first copy is still being stored
)

// errDisabled is JetStream that is off for the server or the account.
var errDisabled = errors.New("JetStream is disabled: enable it on the server (-js) and for this account")

// mapError turns an error of the NATS client into the transport's, and keeps the
// cause. doing says what was attempted. Errors that are the transport's already,
// and those of a ctx, keep their meaning.
func mapError(doing string, err error) error {
	if err == nil {
		return nil
	}
	kind := kindOf(err)
	if kind == nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %w: %w", doing, kind, err)
}

// kindOf returns the transport's error for err, or nil if err says it itself.
func kindOf(err error) error {
	var api *jetstream.APIError
	var size *transport.SizeError
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return nil
	case isTransport(err), errors.As(err, &size):
		return nil
	case errors.Is(err, nats.ErrPermissionViolation), errors.Is(err, nats.ErrAuthorization),
		errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked), errors.Is(err, nats.ErrAccountAuthExpired):
		return transport.ErrPermission
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return transport.ErrConfig
	case errors.As(err, &api):
		return kindOfCode(int(api.ErrorCode), api.Code)
	case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrBadHeaderMsg):
		return transport.ErrInvalid
	case errors.Is(err, jetstream.ErrKeyNotFound), errors.Is(err, jetstream.ErrKeyDeleted), errors.Is(err, jetstream.ErrMsgNotFound):
		return transport.ErrNotFound
	case isDown(err):
		return transport.ErrUnavailable
	}
	return nil
}

// kindOfCode returns the transport's error for an error code of the JetStream
// API and its HTTP-like status.
func kindOfCode(code, status int) error {
	switch code {
	case int(jetstream.JSErrCodeJetStreamNotEnabled), int(jetstream.JSErrCodeJetStreamNotEnabledForAccount):
		return transport.ErrConfig
	case codeStoreFailed, codeResourcesExceeded, int(jetstream.JSErrCodeMaximumConsumersLimit):
		return transport.ErrBacklog
	case codeHeaderTooLarge, int(jetstream.JSErrCodeStreamMessageExceedsMaximum):
		return transport.ErrInvalid
	case int(jetstream.JSErrCodeMessageNotFound), int(jetstream.JSErrCodeStreamNotFound), int(jetstream.JSErrCodeConsumerNotFound):
		return transport.ErrNotFound
	case int(jetstream.JSErrCodeStreamWrongLastSequence), int(jetstream.JSErrCodeStreamWrongLastSequenceConstant):
		return transport.ErrConflict
	}
	if status == 503 || status == 429 || code == codeDuplicateInFlight {
		return transport.ErrUnavailable
	}
	return transport.ErrConfig
}

// passes says whether a refusal with this code may succeed when it is tried
// again with the same id.
func passes(code, status int) bool {
	switch code {
	case codeDuplicateInFlight, codeNotAvailable, codeInsufficient, codeNoPeers:
		return true
	case codeStoreFailed, codeResourcesExceeded,
		int(jetstream.JSErrCodeJetStreamNotEnabled), int(jetstream.JSErrCodeJetStreamNotEnabledForAccount):
		return false
	}
	return status == 503 || status == 429
}

// isTransport says whether err already carries one of the transport's errors.
func isTransport(err error) bool {
	for _, t := range []error{
		transport.ErrNoHandler, transport.ErrBusy, transport.ErrStopping, transport.ErrClosed, transport.ErrUnavailable,
		transport.ErrUnknown, transport.ErrBacklog, transport.ErrPermission, transport.ErrInvalid, transport.ErrConfig,
		transport.ErrSettled, transport.ErrLeaseLost, transport.ErrExists, transport.ErrNotFound, transport.ErrConflict,
	} {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}

// isDown says whether err means that the broker was not reached or did not
// answer.
func isDown(err error) bool {
	for _, e := range []error{
		nats.ErrNoResponders, nats.ErrTimeout, nats.ErrConnectionClosed, nats.ErrConnectionDraining,
		nats.ErrConnectionReconnecting, nats.ErrDisconnected, nats.ErrNoServers, nats.ErrReconnectBufExceeded,
		nats.ErrStaleConnection, nats.ErrMaxConnectionsExceeded, nats.ErrMaxAccountConnectionsExceeded,
		nats.ErrInvalidConnection, jetstream.ErrNoStreamResponse, io.ErrClosedPipe, io.EOF, net.ErrClosed,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	var ne net.Error
	return errors.As(err, &ne)
}

// deniedSubject returns the subject that a permissions error of the server is
// about, and whether it was denied for publishing.
func deniedSubject(err error) (subject string, publish, ok bool) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return "", false, false
	}
	_, s, ok := strings.Cut(err.Error(), `"`)
	if !ok {
		return "", false, false
	}
	subject, _, ok = strings.Cut(s, `"`)
	return subject, strings.Contains(strings.ToLower(err.Error()), "violation for publish"), ok
}

// newDenial is deniedSubject for the last error of a connection, unless it is
// the one that was there before.
func newDenial(before, last error) (subject string, publish, ok bool) {
	if last == nil || !errors.Is(last, nats.ErrPermissionViolation) {
		return "", false, false
	}
	if errors.Is(before, nats.ErrPermissionViolation) && before == last {
		return "", false, false
	}
	return deniedSubject(last)
}
