package nats

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// pubAck is the server's answer to a publish.
type pubAck struct {
	seq       uint64
	duplicate bool
	status    int // of an error, like HTTP; 0 if it was stored
	code      int // of an error
	text      string
}

// parsePubAck reads the answer to a publish. The answer that nearly every publish
// gets, {"stream":"S","seq":7} with more simple members, is read without the
// JSON decoder; anything else takes the long way. ok is false for what is no
// answer of a stream.
func parsePubAck(b []byte) (a pubAck, ok bool) {
	if a, ok = parsePlainAck(b); ok {
		return a, true
	}
	var j struct {
		Stream    string `json:"stream"`
		Seq       uint64 `json:"seq"`
		Duplicate bool   `json:"duplicate"`
		Error     *struct {
			Code        int    `json:"code"`
			ErrCode     int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if json.Unmarshal(b, &j) != nil {
		return pubAck{}, false
	}
	if j.Error != nil {
		if j.Error.Code == 0 {
			return pubAck{}, false
		}
		return pubAck{status: j.Error.Code, code: j.Error.ErrCode, text: j.Error.Description}, true
	}
	if j.Stream == "" || j.Seq == 0 {
		return pubAck{}, false
	}
	return pubAck{seq: j.Seq, duplicate: j.Duplicate}, true
}

// parsePlainAck reads an object whose members are strings without escapes,
// decimal numbers and booleans, and which has a stream and a sequence.
func parsePlainAck(b []byte) (a pubAck, ok bool) {
	if len(b) < 2 || b[0] != '{' || b[len(b)-1] != '}' {
		return pubAck{}, false
	}
	b = b[1 : len(b)-1]
	stream := false
	for {
		key, rest, ok := plainString(b)
		if !ok || len(rest) == 0 || rest[0] != ':' {
			return pubAck{}, false
		}
		b = bytes.TrimLeft(rest[1:], " ")
		var val []byte
		isString := len(b) > 0 && b[0] == '"'
		if isString {
			if val, b, ok = plainString(b); !ok {
				return pubAck{}, false
			}
		} else {
			n := bytes.IndexByte(b, ',')
			if n < 0 {
				n = len(b)
			}
			val, b = b[:n], b[n:]
		}
		switch string(key) {
		case "stream":
			if !isString || len(val) == 0 || stream {
				return pubAck{}, false
			}
			stream = true
		case "seq":
			n, err := strconv.ParseUint(string(val), 10, 64)
			if err != nil || isString || a.seq != 0 || val[0] == '0' || val[0] == '+' {
				return pubAck{}, false
			}
			a.seq = n
		case "duplicate":
			if isString || string(val) != "true" {
				return pubAck{}, false
			}
			a.duplicate = true
		case "domain":
			if !isString {
				return pubAck{}, false
			}
		default:
			return pubAck{}, false
		}
		if len(b) == 0 {
			return a, stream && a.seq != 0
		}
		if b[0] != ',' {
			return pubAck{}, false
		}
		b = bytes.TrimLeft(b[1:], " ")
	}
}

// plainString splits a JSON string of printable ASCII without escapes off b.
func plainString(b []byte) (s, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != '"' {
		return nil, nil, false
	}
	for i := 1; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return b[1:i], b[i+1:], true
		case c == '\\' || c < ' ' || c > '~':
			return nil, nil, false
		}
	}
	return nil, nil, false
}
