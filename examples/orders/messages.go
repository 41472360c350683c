package main

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/jitney-bus/jitney/bus"
)

// ImportOrder is the command that a row of the file becomes. Its id is derived
// from the job and the row's id, so that a row sent again is recognised.
type ImportOrder struct {
	bus.Command[Accepted]
	Job   string `json:"job"`
	Line  int    `json:"line"` // in the file, for people
	Order Order  `json:"order"`
}

// MessageName implements bus.Named.
func (ImportOrder) MessageName() string { return "orders.import" }

// Validate is run by the bus on both ends.
func (c ImportOrder) Validate() error {
	if c.Job == "" {
		return errors.New("job is empty")
	}
	return c.Order.Validate()
}

// Accepted is what a worker answers.
type Accepted struct {
	Worker string `json:"worker"`
}

// OrderImported says that a row is an order now. It is published under an id
// derived from the row, so that the event of a row handled twice is stored once
// within the dedup window, and is recognised by its order later.
type OrderImported struct {
	Job      string `json:"job"`
	Line     int    `json:"line"`
	OrderID  string `json:"order_id"`
	Total    int64  `json:"total"` // in minor units
	Currency string `json:"currency"`
	Worker   string `json:"worker"`
}

// MessageName implements bus.Named.
func (OrderImported) MessageName() string { return "orders.imported" }

// ImportStarted says that rows will come.
type ImportStarted struct {
	Job string `json:"job"`
	// About is how many rows there seem to be, 0 if that is not known.
	About int `json:"about,omitempty"`
}

// MessageName implements bus.Named.
func (ImportStarted) MessageName() string { return "orders.import_started" }

// ImportFinished says that every row has an outcome, and what the report may
// expect.
type ImportFinished struct {
	Job      string `json:"job"`
	Imported int    `json:"imported"` // rows that a worker accepted
	Rejected int    `json:"rejected"` // bad rows
	GaveUp   int    `json:"gave_up"`  // rows without a known outcome
	// Lines are the lines of the imported rows, nil if there are too many gaps
	// to list.
	Lines []span `json:"lines,omitempty"`
}

// MessageName implements bus.Named.
func (ImportFinished) MessageName() string { return "orders.import_finished" }

// Validate is run by the bus on both ends: who reads the spans walks them.
func (e ImportFinished) Validate() error {
	rows, last := 0, 0
	for _, s := range e.Lines {
		if s[0] <= last || s[1] < s[0] || s[1]-s[0] >= e.Imported {
			return fmt.Errorf("span %v is out of order or too long", s)
		}
		rows, last = rows+s[1]-s[0]+1, s[1]
	}
	if e.Lines != nil && rows != e.Imported {
		return fmt.Errorf("%d rows are imported and %d lines listed", e.Imported, rows)
	}
	return nil
}

// rowKey is the id of everything that is sent for one row. A row's own id may be
// any text, a message's may not.
func rowKey(job, orderID string) string {
	sum := sha256.Sum256([]byte(job + "\x00" + orderID))
	return "row-" + base64.RawURLEncoding.EncodeToString(sum[:16])
}
