package nats

import (
	"strconv"
	"strings"
	"time"
)

// A request carries its id and the time that remains at the end of its reply
// subject, where the id can be part of one: that saves most requests their
// headers, which cost every hop. The subject is
//
//	<prefix>.J-<token>.<number>.<milliseconds>.<id>
//
// with 0 milliseconds for a caller that does not say when it gives up.
const replyMark = "J-"

// maxReplyID is the longest id that is put into a reply subject.
const maxReplyID = 64

// inReply says whether id can be a token of a reply subject.
func inReply(id string) bool {
	if id == "" || len(id) > maxReplyID {
		return false
	}
	for i := range len(id) {
		if !isPlain(id[i]) {
			return false
		}
	}
	return true
}

// appendReply writes the last two tokens.
func appendReply(b []byte, left time.Duration, id string) []byte {
	b = append(b, '.')
	b = strconv.AppendInt(b, milliseconds(left), 10)
	b = append(b, '.')
	return append(b, id...)
}

// fromReply reads what appendReply wrote. ok is false for another's reply subject.
func fromReply(subject string) (left time.Duration, id string, ok bool) {
	rest, id, ok := cutLast(subject)
	if !ok || !inReply(id) {
		return 0, "", false
	}
	rest, ms, ok := cutLast(rest)
	if !ok || len(ms) > 12 {
		return 0, "", false
	}
	n, err := strconv.ParseInt(ms, 10, 64)
	if err != nil || n < 0 {
		return 0, "", false
	}
	if rest, _, ok = cutLast(rest); !ok {
		return 0, "", false
	}
	if _, mark, ok := cutLast(rest); !ok || !strings.HasPrefix(mark, replyMark) {
		return 0, "", false
	}
	return min(time.Duration(n)*time.Millisecond, maxTimeout), id, true
}

// cutLast cuts s around its last dot.
func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// milliseconds rounds up.
func milliseconds(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}
