package main

import (
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// row is one record of the input: an order, or the reason why it is none.
type row struct {
	line  int
	order Order
	err   error // nil: order is valid
}

// rowReader reads rows until io.EOF. Any other error is the end of the input.
type rowReader interface {
	next() (row, error)
}

// newRowReader reads a format, "csv" or "jsonl". Its rows have ids of their own.
func newRowReader(r io.Reader, format string) (rowReader, error) {
	lines := newLineReader(r)
	if format == "jsonl" {
		return &uniqueRows{rows: &jsonRows{lines}, lines: map[string]int{}}, nil
	}
	rows, err := newCSVRows(lines)
	if err != nil {
		return nil, err
	}
	return &uniqueRows{rows: rows, lines: map[string]int{}}, nil
}

// uniqueRows rejects an order whose id an earlier row has.
type uniqueRows struct {
	rows  rowReader
	lines map[string]int
}

func (u *uniqueRows) next() (row, error) {
	r, err := u.rows.next()
	if err != nil || r.err != nil {
		return r, err
	}
	if first, ok := u.lines[r.order.ID]; ok {
		r.err = fmt.Errorf("id %q is that of line %d", r.order.ID, first)
		return r, nil
	}
	u.lines[r.order.ID] = r.line
	return r, nil
}

// checkLine says what makes a line unreadable in every format.
func checkLine(l line) error {
	switch {
	case l.long:
		return fmt.Errorf("line is longer than %s bytes", formatCount(maxLine))
	case !utf8.ValidString(l.text):
		return errors.New("line is not UTF-8")
	}
	return nil
}
