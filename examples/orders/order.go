package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Order is one row of the file. UnitPrice is in minor units of Currency: 1250 is
// 12.50 EUR, and 1250 JPY.
type Order struct {
	ID        string    `json:"id"`
	Customer  string    `json:"customer"`
	SKU       string    `json:"sku"`
	Quantity  int       `json:"quantity"`
	UnitPrice int64     `json:"unit_price"`
	Currency  string    `json:"currency"`
	Country   string    `json:"country"` // ISO 3166-1 alpha-2
	PlacedAt  time.Time `json:"placed_at"`
}

const (
	maxText     = 200 // bytes of an id, customer or SKU
	maxQuantity = 100_000
)

// Total is the price of the order in minor units. A valid order's does not
// overflow.
func (o Order) Total() int64 { return int64(o.Quantity) * o.UnitPrice }

// Validate says what is wrong with the order, all of it.
func (o Order) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, f := range []struct{ name, text string }{{"id", o.ID}, {"customer", o.Customer}, {"sku", o.SKU}} {
		switch {
		case f.text == "":
			bad("%s is empty", f.name)
		case len(f.text) > maxText:
			bad("%s has %d bytes, at most %d are allowed", f.name, len(f.text), maxText)
		case !utf8.ValidString(f.text), strings.ContainsFunc(f.text, unicode.IsControl):
			bad("%s %q is not printable text", f.name, f.text)
		}
	}
	priced := true
	if o.Quantity < 1 || o.Quantity > maxQuantity {
		bad("quantity %d is not between 1 and %s", o.Quantity, formatCount(maxQuantity))
		priced = false
	}
	if _, ok := decimals(o.Currency); !ok {
		bad("unknown currency %q", o.Currency)
		priced = false
	}
	if o.UnitPrice < 0 || o.UnitPrice > maxAmount {
		bad("unit price is out of range")
		priced = false
	}
	if priced && o.Total() > maxAmount {
		bad("total is over the limit of %s %s", formatAmount(maxAmount, o.Currency), o.Currency)
	}
	if len(o.Country) != 2 || strings.Trim(o.Country, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		bad("country %q is not a code such as DE", o.Country)
	}
	if o.PlacedAt.IsZero() {
		bad("placed_at is missing")
	}
	return joined(errs)
}

// column is one of the file's columns, or one of a JSON object's fields.
type column int

// The columns, in the order of the samples.
const (
	colID column = iota
	colCustomer
	colSKU
	colQuantity
	colUnitPrice
	colCurrency
	colCountry
	colPlacedAt
	columns
)

func (c column) String() string {
	return [columns]string{"id", "customer", "sku", "quantity", "unit_price", "currency", "country", "placed_at"}[c]
}

// columnOf finds a column by its name, and false for one that is ignored.
func columnOf(name string) (column, bool) {
	for c := range columns {
		if strings.EqualFold(strings.TrimSpace(name), c.String()) {
			return c, true
		}
	}
	return 0, false
}

// parseOrder makes a valid order out of a row's texts, or says what is wrong.
func parseOrder(text [columns]string) (Order, error) {
	for c := range text {
		text[c] = strings.TrimSpace(text[c])
	}
	o := Order{
		ID: text[colID], Customer: text[colCustomer], SKU: text[colSKU],
		Currency: text[colCurrency], Country: text[colCountry],
	}
	var errs []error
	var err error
	if o.Quantity, err = strconv.Atoi(text[colQuantity]); err != nil {
		errs = append(errs, fmt.Errorf("quantity %q is not a whole number", text[colQuantity]))
		o.Quantity = 1 // said once is enough
	}
	if _, known := decimals(o.Currency); known {
		if o.UnitPrice, err = parseAmount(text[colUnitPrice], o.Currency); err != nil {
			errs = append(errs, fmt.Errorf("unit_price %w", err))
		}
	}
	if o.PlacedAt, err = time.Parse(time.RFC3339, text[colPlacedAt]); err != nil {
		errs = append(errs, fmt.Errorf("placed_at %q is not a time such as 2026-03-01T09:30:00Z", text[colPlacedAt]))
		o.PlacedAt = time.Unix(0, 0)
	}
	if err := joined(append(errs, o.Validate())); err != nil {
		return Order{}, err
	}
	return o, nil
}

// joined is errors.Join on one line.
func joined(errs []error) error {
	var texts []string
	for _, err := range errs {
		if err != nil {
			texts = append(texts, err.Error())
		}
	}
	if texts == nil {
		return nil
	}
	return errors.New(strings.Join(texts, "; "))
}
