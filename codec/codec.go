// Package codec turns messages into bytes and back.
//
// JSON and Raw are here; protobuf, MessagePack and CBOR are in packages of
// their own, so that a program links only what it uses. The content type
// travels with each message, and a receiver picks the codec by it from its
// [Set]: senders and receivers need not agree on one codec.
package codec

// Codec encodes and decodes messages of one content type. Its methods are safe
// for concurrent use. Unmarshal reads untrusted bytes: it returns an error for
// whatever it cannot read and never panics.
type Codec interface {
	// ContentType is a media type without parameters, as "application/json".
	ContentType() string
	// Marshal encodes v. The slice returned belongs to the caller, except that
	// Raw returns the caller's own.
	Marshal(v any) ([]byte, error)
	// Unmarshal decodes data into v, which is a non-nil pointer. v keeps no
	// reference to data unless the codec says so.
	Unmarshal(data []byte, v any) error
}
