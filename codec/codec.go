// Package codec turns messages into bytes and back.
//
// [JSON] and [Raw] are here; protobuf, MessagePack and CBOR are in packages of
// their own, so that a program links only what it uses. The content type
// travels with each message, and a receiver picks the codec by it from its
// [Set]: senders and receivers need not agree on one codec.
//
// [Encode] and [Decode] call a codec and turn whatever goes wrong, a panic
// included, into an [*Error] that names the content type and the Go type.
package codec

// MaxDepth is how deep arrays, maps and messages may nest in a body. A body
// that nests deeper is refused before it is decoded, or while it is. It holds
// for every codec of this project; 64 is more than data made by programs needs.
const MaxDepth = 64

// Codec encodes and decodes messages of one content type. Its methods are safe
// for concurrent use. Unmarshal reads untrusted bytes: it returns an error for
// whatever it cannot read, does not panic, and takes memory in proportion to
// the bytes given.
type Codec interface {
	// ContentType is a media type without parameters, as "application/json".
	ContentType() string
	// Marshal encodes v. The slice returned belongs to the caller, except that
	// Raw returns the caller's own.
	Marshal(v any) ([]byte, error)
	// Unmarshal decodes all of data into v, a non-nil pointer. v keeps no
	// reference to data. After an error v may be filled in part.
	Unmarshal(data []byte, v any) error
}
