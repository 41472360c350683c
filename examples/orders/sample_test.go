package main

import (
	"bytes"
	"encoding/csv"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write testdata/orders.csv again")

// TestSample keeps the sample and what makes it together:
//
//	go test ./examples/orders -run TestSample -update
func TestSample(t *testing.T) {
	made := makeSample()
	if *update {
		require.NoError(t, os.WriteFile("testdata/orders.csv", made, 0o644))
		return
	}
	require.True(t, bytes.Equal(made, sample), "testdata/orders.csv is not what makeSample makes; run with -update")
	require.Less(t, len(sample), 300_000)
}

// makeSample makes 2,000 orders of a small shop, the same ones each time.
func makeSample() []byte {
	const orders = 2000
	random := rand.New(rand.NewPCG(2026, 3))
	markets := []struct {
		country, currency string
		weight            int
		rate              float64 // of one EUR
		customers         []string
	}{
		{"DE", "EUR", 30, 1, []string{"Buchhandlung Lindner", "Kaffeerösterei Böhm", "Müller & Söhne GmbH", "Praxis Dr. Weiß", "Stadtwerke Jena", "Tischlerei Krause"}},
		{"FR", "EUR", 14, 1, []string{"Boulangerie Lefèvre", "Cabinet Moreau", "Éditions du Canal", "Hôtel Beaurivage"}},
		{"ES", "EUR", 8, 1, []string{"Bodega Hernández", "Librería Cervantes", "Peñalver Arquitectos"}},
		{"US", "USD", 20, 1.09, []string{"Blue Harbor Coffee, LLC", "Cascade Outfitters", "Maple Street Dental", "Ridgeway Public Library", "Smith, Jones & Co."}},
		{"GB", "GBP", 12, 0.85, []string{"Ashdown Tea Rooms", "Fenwick \"The Baker\" Ltd", "Harrow Bicycle Works", "St Anne's Primary School"}},
		{"CH", "CHF", 6, 0.95, []string{"Alpenblick AG", "Papeterie Zürcher", "Uhren Favre SA"}},
		{"SE", "SEK", 5, 11.3, []string{"Björk Möbler AB", "Göteborgs Kafferosteri"}},
		{"JP", "JPY", 5, 163, []string{"喫茶さくら", "Tanaka Shoten", "Yamato Design"}},
	}
	products := []struct {
		sku  string
		cent int // EUR
		most int
	}{
		{"COF-ESP-1000", 2190, 12}, {"COF-FIL-0500", 1150, 24}, {"TEA-ASS-0250", 690, 20},
		{"MUG-STN-BLU", 1490, 48}, {"MUG-STN-WHT", 1390, 48}, {"GRD-HND-02", 8900, 3},
		{"KET-GSN-09", 12900, 2}, {"FLT-V60-100", 480, 60}, {"SCL-DIG-2KG", 3450, 5},
		{"GFT-CRD-50", 5000, 10}, {"CHC-DRK-085", 425, 100}, {"BSK-OAT-200", 365, 100},
	}
	weights := 0
	for _, m := range markets {
		weights += m.weight
	}
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	header := make([]string, columns)
	for c := range columns {
		header[c] = c.String()
	}
	_ = w.Write(header) // a bytes.Buffer takes everything; Flush below
	at := time.Date(2026, 3, 2, 6, 0, 0, 0, time.UTC)
	for i := range orders {
		pick, m := random.IntN(weights), markets[0]
		for _, m = range markets {
			if pick -= m.weight; pick < 0 {
				break
			}
		}
		p := products[random.IntN(len(products))]
		places, _ := decimals(m.currency)
		price := strconv.FormatFloat(float64(p.cent)/100*m.rate, 'f', places, 64)
		at = at.Add(time.Duration(5+random.IntN(590)) * time.Second)
		_ = w.Write([]string{
			fmt.Sprintf("A-%06d", 100_001+i), m.customers[random.IntN(len(m.customers))], p.sku,
			strconv.Itoa(1 + random.IntN(p.most)), price, m.currency, m.country, at.Format(time.RFC3339),
		})
	}
	w.Flush()
	return out.Bytes()
}
