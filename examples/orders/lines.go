package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// maxLine is the longest line that is read as one.
const maxLine = 1 << 20

// line is a line of the input without its end.
type line struct {
	n    int // counted from 1
	text string
	long bool // text was cut off at maxLine
}

// lineReader reads lines of any length in bounded memory, and takes back those
// that were read ahead.
type lineReader struct {
	r    *bufio.Reader
	n    int
	back []line // to be read again, the first first
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 64<<10)}
}

// next returns the next line, or io.EOF after the last.
func (l *lineReader) next() (line, error) {
	if len(l.back) > 0 {
		first := l.back[0]
		l.back = l.back[1:]
		return first, nil
	}
	var text []byte
	long := false
	for {
		part, err := l.r.ReadSlice('\n')
		if room := maxLine - len(text); len(part) > room {
			part, long = part[:room], true
		}
		text = append(text, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err == io.EOF && len(text) == 0:
			return line{}, io.EOF
		case err != nil && err != io.EOF:
			return line{}, err
		}
		break
	}
	l.n++
	if l.n == 1 {
		text = bytes.TrimPrefix(text, []byte("\ufeff"))
	}
	text = bytes.TrimSuffix(text, []byte("\n"))
	text = bytes.TrimSuffix(text, []byte("\r"))
	return line{n: l.n, text: string(text), long: long}, nil
}

// unread gives lines back, to be read before everything else.
func (l *lineReader) unread(lines []line) {
	l.back = append(lines, l.back...)
}
