package nats

import "github.com/nats-io/nats.go"

// Anybody may call anything a header. The client gives a message whose header block
// it cannot read no headers, and stops reading at the first blank line, wherever that
// is. So a message may have headers that do not show, and what the server adds behind
// them does not show either.

// hdrUnreadable, which no header of a message can be called, stands for a block that
// cannot be read.
const hdrUnreadable = ""

var unreadable = nats.Header{hdrUnreadable: nil}

// headersOf returns the headers of a message off the wire, or unreadable.
func headersOf(in *nats.Msg) nats.Header {
	if in.Header == nil && headerBytes(in) > 0 {
		return unreadable
	}
	return in.Header
}

// headerBytes is how much of a message off the wire was said to be headers.
func headerBytes(in *nats.Msg) int {
	return in.Size() - len(in.Subject) - len(in.Reply) - len(in.Data)
}

// maxWhole is how many headers a block may have to be found whole. Each may have been
// written two bytes shorter than this client does, and what the server adds takes more
// than the sum of these.
const maxWhole = 48

// isWhole says whether what was read of a message's headers is surely all that its
// block has. Only then do headers that the server added say what the server said.
func isWhole(in *nats.Msg) bool {
	n, size := 0, len("NATS/1.0\r\n\r\n")
	for key, values := range in.Header {
		for _, v := range values {
			n++
			size += len(key) + len(": \r\n") + len(v)
		}
	}
	return n < maxWhole && headerBytes(in) <= size
}
