package bus

import (
	"errors"
	"fmt"
)

// itemResults is what a batch handler's error says of each of n events. whole: it
// is one failure of them all.
func itemResults(err error, n int) (results []error, whole bool) {
	results = make([]error, n)
	items, direct := err.(ItemErrors)
	switch {
	case err == nil:
		return results, false
	case !direct && (!errors.As(err, &items) || len(items) == 0):
		// Empty and wrapped, it tells of no event, and what is around it of all.
		return failAll(results, err)
	}
	for i, e := range items {
		if i < 0 || i >= n {
			return failAll(results, fmt.Errorf("bus.ItemErrors has an error for index %d of a batch of %d, so all of them count as failed: %v", i, n, sane(e)))
		}
		results[i] = steered(sane(e), err)
	}
	return results, false
}

func failAll(results []error, err error) ([]error, bool) {
	for i := range results {
		results[i] = err
	}
	return results, true
}

// steered is an item's error with what the error around all of them asks for.
func steered(err, around error) error {
	if _, own := RetryDelay(err); own || err == nil || IsPermanent(err) {
		return err
	}
	if d, ok := RetryDelay(around); ok {
		err = RetryAfter(d, err)
	}
	if IsPermanent(around) {
		err = Permanent(err)
	}
	return err
}
