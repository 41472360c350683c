package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// jsonRows reads JSON Lines: an object a line, with the columns as its fields
// (case matters not), beside others that are ignored. Values are texts or
// numbers.
type jsonRows struct{ lines *lineReader }

func (j *jsonRows) next() (row, error) {
	for {
		l, err := j.lines.next()
		if err != nil {
			return row{}, err
		}
		if strings.TrimSpace(l.text) == "" {
			continue
		}
		r := row{line: l.n}
		text, err := objectText(l)
		if err != nil {
			r.err = err
			return r, nil
		}
		r.order, r.err = parseOrder(text)
		return r, nil
	}
}

// objectText returns the columns of the object on a line.
func objectText(l line) (text [columns]string, err error) {
	if err := checkLine(l); err != nil {
		return text, err
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(l.text), &object); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return text, fmt.Errorf("column %d: %w", syntax.Offset, err)
		}
		return text, errors.New("line is not a JSON object")
	}
	if object == nil {
		return text, errors.New("line is not a JSON object")
	}
	found := [columns]bool{}
	for name, raw := range object {
		col, ok := columnOf(name)
		if !ok {
			continue
		}
		if found[col] {
			return text, fmt.Errorf("field %s is there twice", col)
		}
		found[col] = true
		if text[col], err = scalarText(raw); err != nil {
			return text, fmt.Errorf("%s %w", col, err)
		}
	}
	var missing []string
	for col, ok := range found {
		if !ok {
			missing = append(missing, column(col).String())
		}
	}
	if missing != nil {
		return text, fmt.Errorf("%s is missing", strings.Join(missing, ", "))
	}
	return text, nil
}

// scalarText returns a text as it is, and a number as it is written: 12.50 must
// not take a detour through a float.
func scalarText(raw json.RawMessage) (string, error) {
	var s string
	if err := json.Unmarshal(raw, &s); err == nil && raw[0] == '"' {
		return s, nil
	}
	var n json.Number
	if err := json.Unmarshal(raw, &n); err == nil && n != "" {
		return n.String(), nil
	}
	return "", errors.New("is neither a text nor a number")
}
