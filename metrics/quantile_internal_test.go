package metrics

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// observe returns the native buckets of values, as the histograms of this package
// have them.
func observe(t require.TestingT, values []float64) native {
	h := newTimes(Config{}).commands.WithLabelValues("a", "b")
	for _, v := range values {
		h.Observe(v)
	}
	var m dto.Metric
	require.NoError(t, h.(prometheus.Metric).Write(&m))
	require.EqualValues(t, len(values), m.GetHistogram().GetSampleCount())
	require.Len(t, m.GetHistogram().GetBucket(), buckets)
	return nativeOf(m.GetHistogram())
}

// exact is what a share q of sorted values is not above.
func exact(sorted []float64, q float64) float64 {
	return sorted[max(int(math.Ceil(q*float64(len(sorted)))), 1)-1]
}

func TestQuantilesOfDistributions(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	worst := 0.0
	for name, draw := range map[string]func() float64{
		"uniform":   func() float64 { return 0.001 + 0.099*r.Float64() },
		"lognormal": func() float64 { return 0.002 * math.Exp(1.2*r.NormFloat64()) },
		"bimodal": func() float64 {
			if r.Float64() < 0.9 {
				return 0.001 * (1 + 0.1*r.NormFloat64())
			}
			return 0.08 * (1 + 0.05*r.NormFloat64())
		},
		"20 µs":        func() float64 { return 20e-6 * math.Exp(0.5*r.NormFloat64()) },
		"all the same": func() float64 { return 0.918 }, // just above a bound: the worst place
	} {
		t.Run(name, func(t *testing.T) {
			values := make([]float64, 100_000)
			for i := range values {
				values[i] = max(draw(), 1e-7)
			}
			n := observe(t, values)
			slices.Sort(values)
			for _, q := range []float64{0.01, 0.5, 0.95, 0.99, 1} {
				want, got := exact(values, q), n.quantile(q)
				off := math.Abs(got-want) / want
				worst = max(worst, off)
				require.LessOrEqualf(t, off, 0.06, "%v: %v instead of %v", q, got, want)
			}
		})
	}
	t.Logf("off by %.1f %% at the most", 100*worst)
}

func TestQuantileOfNothing(t *testing.T) {
	require.Zero(t, native{}.quantile(0.5))
	require.Zero(t, observe(t, []float64{0, 0, 0}).quantile(0.99))
}

// Merged buckets are those of all values together, as far as the coarser of the two
// can tell.
func TestMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(1e-6, 60), 0, 200)
		a, b := values.Draw(t, "a"), values.Draw(t, "b")
		coarse := func(values []float64, schema int32) native {
			n := native{schema: schema, counts: map[int]uint64{}}
			for _, v := range values {
				n.counts[int(math.Ceil(math.Log2(v)*math.Exp2(float64(schema))))]++
			}
			return n
		}
		schema := rapid.Int32Range(-2, 3).Draw(t, "schema")
		require.Equal(t, coarse(slices.Concat(a, b), schema).counts, coarse(a, 3).merge(coarse(b, schema)).counts)
	})
}
