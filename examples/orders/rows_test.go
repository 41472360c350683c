package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	header = "id,customer,sku,quantity,unit_price,currency,country,placed_at\n"
	good   = "%s,Ada,S-1,2,12.50,EUR,DE,2026-03-02T06:00:00Z\n"
)

// read returns a text for each row: its line with its id, or with its error.
func read(t testing.TB, format string, input io.Reader) []string {
	t.Helper()
	rows, err := newRowReader(input, format)
	require.NoError(t, err)
	var got []string
	for {
		r, err := rows.next()
		if err == io.EOF {
			return got
		}
		require.NoError(t, err)
		if r.err != nil {
			got = append(got, fmt.Sprintf("%d: %v", r.line, r.err))
		} else {
			got = append(got, fmt.Sprintf("%d %s", r.line, r.order.ID))
		}
	}
}

func TestCSV(t *testing.T) {
	row := func(id string) string { return fmt.Sprintf(good, id) }
	for _, c := range []struct {
		name, input string
		want        []string
	}{
		{"nothing but a header", header, nil},
		{"rows", header + row("a") + row("b"), []string{"2 a", "3 b"}},
		{"no line end at the end", header + strings.TrimSpace(row("a")), []string{"2 a"}},
		{"byte order mark, CRLF and blank lines", "\ufeff" + strings.ReplaceAll(header+"\n"+row("a")+"  \n"+row("b"), "\n", "\r\n"), []string{"3 a", "5 b"}},
		{"semicolons", strings.ReplaceAll(header+row("a"), ",", ";"), []string{"2 a"}},
		{"tabs", strings.ReplaceAll(header+row("a"), ",", "\t"), []string{"2 a"}},
		{
			"columns in another order, in capitals, with others beside them",
			"PLACED_AT,note, Country ,currency,unit_price,quantity,sku,customer,id\n2026-03-02T06:00:00Z,\"hi, you\",DE,EUR,1,1,S,Ada,a\n",
			[]string{"2 a"},
		},
		{
			"a note over several lines",
			strings.Replace(header, "\n", ",note\n", 1) + strings.Replace(row("a"), "\n", ",\"one\n\ntwo \"\"quoted\"\"\"\n", 1) + strings.Replace(row("b"), "\n", ",\n", 1),
			[]string{"2 a", "5 b"},
		},
		{
			"a quote that is never closed costs one line",
			header + row("a") + row("\"b") + row("c") + row("d"),
			[]string{"2 a", "3: quote is never closed", "4 c", "5 d"},
		},
		{
			"two of them cost two lines",
			header + row("\"a") + row("b") + row("\"c") + row("d"),
			[]string{"2: quote is never closed, or closed in the wrong place", "3 b", "4: quote is never closed", "5 d"},
		},
		{"wrong number of fields", header + "a,Ada\n" + row("b"), []string{"2: 2 fields, the header has 8", "3 b"}},
		{"bare quote", header + row("a\"x\"") + row("b"), []string{"2: column 2: bare \" in non-quoted-field", "3 b"}},
		{"the same id twice", header + row("a") + row("b") + row("a"), []string{"2 a", "3 b", "4: id \"a\" is that of line 2"}},
		{"not UTF-8", header + row("\xff") + row("b"), []string{"2: line is not UTF-8", "3 b"}},
		{"too long", header + row(strings.Repeat("a", maxLine)) + row("b"), []string{"2: line is longer than 1,048,576 bytes", "3 b"}},
		{"control character", header + row("a\x00") + row("b"), []string{`2: id "a\x00" is not printable text`, "3 b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, read(t, "csv", strings.NewReader(c.input)))
		})
	}
}

func TestCSVHeader(t *testing.T) {
	for _, c := range []struct{ name, input, want string }{
		{"empty", "", "the input is empty; its first line must name the columns"},
		{"no header", fmt.Sprintf(good, "a"), "line 1 does not name the columns: id, customer, sku, quantity, unit_price, currency, country, placed_at is missing"},
		{"one missing", strings.Replace(header, "currency,", "", 1), "line 1 does not name the columns: currency is missing"},
		{"one twice", "id," + header, "line 1: column id is there twice"},
		{"open quote", "\"" + header, "line 1: column 64: extraneous or missing \" in quoted-field"},
		{"binary", "\xff\xfe", "line is not UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := newRowReader(strings.NewReader(c.input), "csv")
			require.EqualError(t, err, c.want)
		})
	}
}

func TestParseOrder(t *testing.T) {
	fine := [columns]string{"a", "Ada", "S-1", "2", "12.50", "EUR", "DE", "2026-03-02T06:00:00Z"}
	o, err := parseOrder(fine)
	require.NoError(t, err)
	require.EqualValues(t, 2500, o.Total())
	for _, c := range []struct {
		col        column
		text, want string
	}{
		{colID, " ", "id is empty"},
		{colCustomer, strings.Repeat("x", 201), "customer has 201 bytes, at most 200 are allowed"},
		{colSKU, "", "sku is empty"},
		{colQuantity, "", `quantity "" is not a whole number`},
		{colQuantity, "1.5", `quantity "1.5" is not a whole number`},
		{colQuantity, "0", "quantity 0 is not between 1 and 100,000"},
		{colQuantity, "-3", "quantity -3 is not between 1 and 100,000"},
		{colQuantity, "99999999999999999999", `quantity "99999999999999999999" is not a whole number`},
		{colUnitPrice, "12,50", `unit_price "12,50" is not an amount such as 12.50`},
		{colUnitPrice, "-1", `unit_price "-1" is not an amount such as 12.50`},
		{colUnitPrice, "1e3", `unit_price "1e3" is not an amount such as 12.50`},
		{colUnitPrice, "1.", `unit_price "1." is not an amount such as 12.50`},
		{colUnitPrice, "1.005", `unit_price "1.005" has 3 decimals, EUR has 2`},
		{colUnitPrice, "99999999999", `unit_price "99999999999" is over the limit of 10,000,000,000.00`},
		{colUnitPrice, "9000000000", "total is over the limit of 10,000,000,000.00 EUR"},
		{colCurrency, "eur", `unknown currency "eur"`},
		{colCurrency, "", `unknown currency ""`},
		{colCountry, "Spain", `country "Spain" is not a code such as DE`},
		{colPlacedAt, "2026-03-02", `placed_at "2026-03-02" is not a time such as 2026-03-01T09:30:00Z`},
	} {
		t.Run(c.col.String()+" "+c.text, func(t *testing.T) {
			text := fine
			text[c.col] = c.text
			_, err := parseOrder(text)
			require.EqualError(t, err, c.want)
		})
	}
	_, err = parseOrder([columns]string{colQuantity: "x", colCurrency: "EUR", colUnitPrice: "y", colCountry: "DE"})
	require.EqualError(t, err, `quantity "x" is not a whole number; unit_price "y" is not an amount such as 12.50; `+
		`placed_at "" is not a time such as 2026-03-01T09:30:00Z; id is empty; customer is empty; sku is empty`)
}

func TestAmounts(t *testing.T) {
	for _, c := range []struct {
		text, currency, want string
		minor                int64
	}{
		{"0", "EUR", "0.00", 0},
		{"0.07", "EUR", "0.07", 7},
		{"12.5", "USD", "12.50", 1250},
		{"1234567", "JPY", "1,234,567", 1234567},
		{"1234.567", "KWD", "1,234.567", 1234567},
		{"007", "GBP", "7.00", 700},
	} {
		minor, err := parseAmount(c.text, c.currency)
		require.NoError(t, err, c.text)
		require.Equal(t, c.minor, minor, c.text)
		require.Equal(t, c.want, formatAmount(minor, c.currency))
	}
	_, err := parseAmount("1", "XXX")
	require.EqualError(t, err, `unknown currency "XXX"`)
}

func TestJSONLines(t *testing.T) {
	f, err := os.Open("testdata/orders.jsonl")
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, []string{"1 J-1", "2 J-2", "3 J-3"}, read(t, "jsonl", f))

	object := func(id string) string {
		return `{"id":` + id + `,"customer":"Ada","sku":"S","quantity":1,"unit_price":"1.10","currency":"EUR","country":"DE","placed_at":"2026-03-02T06:00:00Z"}`
	}
	got := read(t, "jsonl", strings.NewReader(strings.Join([]string{
		object(`"a"`), "", object(`7`), `[1]`, `null`, `{"id":"b"`, object(`["c"]`), object(`null`), object(`"a"`),
		strings.Replace(object(`"d"`), "sku", "ID", 1), strings.Replace(object(`"e"`), "sku", "note", 1), object(`"f"`) + "x", object(`"g"`),
	}, "\n")))
	require.Equal(t, []string{
		"1 a", "3 7", "4: line is not a JSON object", "5: line is not a JSON object",
		"6: column 9: unexpected end of JSON input", "7: id is neither a text nor a number",
		"8: id is neither a text nor a number", `9: id "a" is that of line 1`,
		"10: field id is there twice", "11: sku is missing",
		"12: column 138: invalid character 'x' after top-level value", "13 g",
	}, got)
}

// FuzzRows checks what holds for any input: it ends, each row has a line of its
// own in order, and an accepted order is valid and has an id of its own.
func FuzzRows(f *testing.F) {
	bad, err := os.ReadFile("testdata/bad.csv")
	require.NoError(f, err)
	objects, err := os.ReadFile("testdata/orders.jsonl")
	require.NoError(f, err)
	f.Add(bad, true)
	f.Add(objects, false)
	f.Add([]byte(header+"\"\n\"\"\n\"\n"), true)
	f.Add([]byte("\ufeff{}\r\n{\"id\":1}\n"), false)
	f.Fuzz(func(t *testing.T, input []byte, isCSV bool) {
		format := "jsonl"
		if isCSV {
			format = "csv"
		}
		rows, err := newRowReader(bytes.NewReader(input), format)
		if err != nil {
			return
		}
		last, ids := 0, map[string]bool{}
		for {
			r, err := rows.next()
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
			require.Greater(t, r.line, last)
			require.LessOrEqual(t, r.line, bytes.Count(input, []byte("\n"))+1)
			last = r.line
			if r.err != nil {
				require.NotEmpty(t, r.err.Error())
				continue
			}
			require.NoError(t, r.order.Validate())
			require.False(t, ids[r.order.ID], "id %q twice", r.order.ID)
			ids[r.order.ID] = true
		}
	})
}

func TestSpans(t *testing.T) {
	require.Empty(t, spansOf(nil))
	spans := spansOf([]int{9, 3, 7, 8, 3, 1, 12})
	require.Equal(t, []span{{1, 1}, {3, 3}, {7, 9}, {12, 12}}, spans)
	require.Equal(t, "1, 3, 7-9, 12", formatSpans(spans))
	many := make([]int, 30)
	for i := range many {
		many[i] = 2 * i
	}
	require.Contains(t, formatSpans(spansOf(many)), "38, …")
}

func TestBar(t *testing.T) {
	require.Equal(t, "[===============               ]  50% half", bar(5, 10, "half", 80))
	require.Equal(t, "[==============================] 100% all", bar(12, 10, "all", 80))
	require.Equal(t, "unknown", bar(5, 0, "unknown", 80))
	require.Equal(t, "[====", bar(10, 10, "narrow", 6))
}
