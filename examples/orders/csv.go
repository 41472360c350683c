package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxRecordLines is how many lines a record may span by quoted line ends.
const maxRecordLines = 50

// csvRows reads CSV (RFC 4180) with a header line that names the columns, in any
// order, beside others that are ignored. The separator is a comma, a semicolon
// or a tab, whichever the header has.
//
// A quote that is never closed costs its own line, not the rest of the file.
type csvRows struct {
	lines     *lineReader
	separator rune
	fields    int          // of the header
	at        [columns]int // where a column is
}

// newCSVRows reads the header.
func newCSVRows(lines *lineReader) (*csvRows, error) {
	c := &csvRows{lines: lines, separator: ','}
	header, err := lines.next()
	if err == nil {
		err = checkLine(header)
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil, errors.New("the input is empty; its first line must name the columns")
	case err != nil:
		return nil, err
	}
	if !strings.Contains(header.text, ",") {
		for _, s := range ";\t" {
			if strings.ContainsRune(header.text, s) {
				c.separator = s
			}
		}
	}
	names, err := c.split(header.text)
	if err != nil {
		return nil, fmt.Errorf("line 1: %w", err)
	}
	c.fields = len(names)
	found := [columns]bool{}
	for i, name := range names {
		col, ok := columnOf(name)
		if !ok {
			continue
		}
		if found[col] {
			return nil, fmt.Errorf("line 1: column %s is there twice", col)
		}
		found[col], c.at[col] = true, i
	}
	var missing []string
	for col, ok := range found {
		if !ok {
			missing = append(missing, column(col).String())
		}
	}
	if missing != nil {
		return nil, fmt.Errorf("line 1 does not name the columns: %s is missing", strings.Join(missing, ", "))
	}
	return c, nil
}

func (c *csvRows) next() (row, error) {
	for {
		l, err := c.lines.next()
		if err != nil {
			return row{}, err
		}
		if strings.TrimSpace(l.text) == "" {
			continue
		}
		fields, err := c.record(l)
		if err != nil {
			var read *readError
			if errors.As(err, &read) {
				return row{}, read.err
			}
			return row{line: l.n, err: err}, nil
		}
		var text [columns]string
		for col, i := range c.at {
			text[col] = fields[i]
		}
		r := row{line: l.n}
		r.order, r.err = parseOrder(text)
		return r, nil
	}
}

// readError is a failure of the input, not of a row.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }

// record reads the record that starts with l. One that spans several lines and
// is no good gives back all but the first.
func (c *csvRows) record(l line) ([]string, error) {
	if err := checkLine(l); err != nil {
		return nil, err
	}
	text, more := l.text, []line(nil)
	for quoteOpen(text) {
		if len(more)+1 == maxRecordLines || len(text) > maxLine {
			c.lines.unread(more)
			return nil, errors.New("quote is never closed")
		}
		next, err := c.lines.next()
		if err == nil && checkLine(next) != nil {
			more, err = append(more, next), io.EOF
		}
		if err != nil {
			c.lines.unread(more)
			if !errors.Is(err, io.EOF) {
				return nil, &readError{err}
			}
			return nil, errors.New("quote is never closed")
		}
		more = append(more, next)
		text += "\n" + next.text
	}
	fields, err := c.split(text)
	if err == nil && len(fields) != c.fields {
		err = fmt.Errorf("%d fields, the header has %d", len(fields), c.fields)
	}
	if err != nil {
		c.lines.unread(more)
		if more != nil {
			err = errors.New("quote is never closed, or closed in the wrong place")
		}
		return nil, err
	}
	return fields, nil
}

// quoteOpen reports whether a record goes on after text: each field's quotes
// come in pairs.
func quoteOpen(text string) bool { return strings.Count(text, `"`)%2 == 1 }

// split returns the fields of one record.
func (c *csvRows) split(record string) ([]string, error) {
	r := csv.NewReader(strings.NewReader(record))
	r.Comma = c.separator
	fields, err := r.Read()
	var parse *csv.ParseError
	switch {
	case errors.As(err, &parse):
		return nil, fmt.Errorf("column %d: %w", parse.Column, parse.Err)
	case err != nil: // nothing in it
		return nil, errors.New("no fields")
	}
	return fields, nil
}
