package nats

import (
	"strconv"
	"strings"
	"time"
)

// ackReply is what the reply subject of a message that a consumer delivered says of
// it. With a domain and a hash of the account, which older servers leave out, it is
//
//	$JS.ACK.<domain>.<hash>.<stream>.<consumer>.<deliveries>.<sequence>.<sequence in the consumer>.<stored>.<pending>
//
// and newer servers may add more tokens.
type ackReply struct {
	deliveries int
	sequence   uint64 // in the stream
	stored     time.Time
}

// How many tokens an ackReply has, and at which the deliveries are.
const (
	shortAckReply, shortDeliveries = 9, 4
	longAckReply, longDeliveries   = 11, 6
)

// parseAckReply reads a reply subject. It is the client's Metadata without its
// allocation, and stricter: ok is false for what no server writes.
func parseAckReply(reply string) (a ackReply, ok bool) {
	rest, ok := strings.CutPrefix(reply, "$JS.ACK.")
	if !ok {
		return ackReply{}, false
	}
	skip := shortDeliveries
	switch n := strings.Count(reply, ".") + 1; {
	case n >= longAckReply:
		skip = longDeliveries
	case n != shortAckReply:
		return ackReply{}, false
	}
	for range skip - 2 {
		_, rest, _ = strings.Cut(rest, ".")
	}
	var numbers [4]uint64 // deliveries, sequence, sequence in the consumer, stored
	for i := range numbers {
		var token string
		token, rest, _ = strings.Cut(rest, ".")
		n, err := strconv.ParseUint(token, 10, 63)
		if err != nil {
			return ackReply{}, false
		}
		numbers[i] = n
	}
	return ackReply{deliveries: int(numbers[0]), sequence: numbers[1], stored: time.Unix(0, int64(numbers[3]))}, true
}
