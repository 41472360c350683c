package main

import (
	"fmt"
	"strconv"
	"strings"
)

// decimals returns how many decimals a currency has (ISO 4217), and false for
// one that this shop does not take.
func decimals(currency string) (int, bool) {
	switch currency {
	case "AUD", "BRL", "CAD", "CHF", "CNY", "CZK", "DKK", "EUR", "GBP", "HKD", "HUF", "ILS",
		"INR", "MXN", "NOK", "NZD", "PLN", "RON", "SEK", "SGD", "THB", "TRY", "USD", "ZAR":
		return 2, true
	case "CLP", "ISK", "JPY", "KRW", "VND":
		return 0, true
	case "BHD", "JOD", "KWD", "OMR", "TND":
		return 3, true
	default:
		return 0, false
	}
}

// maxAmount bounds a price and an order, in minor units, so that a sum over
// millions of orders fits an int64.
const maxAmount = 1_000_000_000_000

// parseAmount reads a decimal such as "12.5" as minor units of the currency. It
// takes no sign, no exponent and no thousands separator: what could be meant in
// two ways is refused.
func parseAmount(text, currency string) (int64, error) {
	places, ok := decimals(currency)
	if !ok {
		return 0, fmt.Errorf("unknown currency %q", currency)
	}
	whole, fraction, dot := strings.Cut(text, ".")
	if whole == "" || (dot && fraction == "") || !isDigits(whole) || !isDigits(fraction) {
		return 0, fmt.Errorf("%q is not an amount such as 12.50", text)
	}
	if len(fraction) > places {
		return 0, fmt.Errorf("%q has %d decimals, %s has %d", text, len(fraction), currency, places)
	}
	minor, err := strconv.ParseInt(whole+fraction+strings.Repeat("0", places-len(fraction)), 10, 64)
	if err != nil || minor > maxAmount {
		return 0, fmt.Errorf("%q is over the limit of %s", text, formatAmount(maxAmount, currency))
	}
	return minor, nil
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// formatAmount writes minor units with the currency's decimals and separated
// thousands: 1,234.50.
func formatAmount(minor int64, currency string) string {
	places, _ := decimals(currency)
	digits := fmt.Sprintf("%0*d", places+1, minor)
	whole, fraction := digits[:len(digits)-places], digits[len(digits)-places:]
	if places == 0 {
		return thousands(whole)
	}
	return thousands(whole) + "." + fraction
}

// formatCount writes a count with separated thousands.
func formatCount(n int) string { return thousands(strconv.Itoa(n)) }

func thousands(digits string) string {
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}
