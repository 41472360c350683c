package bus

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// settleAtOnce bounds the settlements of one batch that are under way.
	settleAtOnce = 16
	// slowSettle is from when on a settlement is taken to wait for the broker.
	slowSettle = 500 * time.Microsecond
)

// settleAll settles deliveries one after the other where that is only a message to
// the broker, and side by side where each has to be waited for.
func settleAll(flights []*flight) {
	var next atomic.Int64
	work := func() {
		for i := int(next.Add(1) - 1); i < len(flights); i = int(next.Add(1) - 1) {
			if f := flights[i]; f != nil {
				f.settle()
			}
		}
	}
	if len(flights) > 1 {
		slow := false
		for _, f := range flights {
			slow = slow || f == nil || len(f.runs) != 1 || f.runs[0].verdict.fate != fateDone
		}
		if !slow {
			began := time.Now()
			next.Store(1)
			flights[0].settle()
			slow = time.Since(began) > slowSettle
		}
		if slow {
			var wg sync.WaitGroup
			defer wg.Wait()
			for range min(settleAtOnce, len(flights)) - 1 {
				wg.Go(work)
			}
		}
	}
	work()
}
