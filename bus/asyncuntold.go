package bus

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

const (
	// untoldAfter is when a failure is logged that nobody has asked for.
	untoldAfter = 5 * time.Second
	// maxUntold bounds the failures that are kept for Flush and Close, and
	// maxReported those that their error lists.
	maxUntold   = 1000
	maxReported = 100
)

// untold keeps the failures of PublishAsync that nobody has got.
type untold struct {
	log *slog.Logger

	mu   sync.Mutex
	list []failure // oldest first
	next time.Time // when one is to be logged, the zero time for never
	more []error   // of those that were too many to keep, the first
	lost int       // and how many they are; they were logged
	may  bool      // some of them may be stored
}

type failure struct {
	p       *Pending
	err     error
	at      time.Time
	closing bool // Close has to tell of it, whoever got it
	logged  bool
}

// add takes a failure. One of a bus that closes is logged at once.
func (u *untold) add(f failure) {
	var loud []failure
	u.mu.Lock()
	if f.logged {
		// told otherwise
	} else if f.closing {
		f.logged = true
		loud = append(loud, f)
	} else if u.next.IsZero() {
		u.next = f.at.Add(untoldAfter)
	}
	if len(u.list) >= maxUntold {
		oldest := u.list[0]
		u.list[0] = failure{}
		u.list = u.list[1:]
		if oldest.isUntold(false) {
			if u.lost++; u.lost == 1 {
				u.more = append(u.more, oldest.err)
			}
			u.may = u.may || mayBeStored(oldest.err)
			if !oldest.logged {
				loud = append(loud, oldest)
			}
		}
	}
	u.list = append(u.list, f)
	u.mu.Unlock()
	u.write(loud)
}

// sweep logs what nobody has asked for in time, and returns when it has to look
// again; the zero time is never.
func (u *untold) sweep(now time.Time) (next time.Time) {
	var loud []failure
	u.mu.Lock()
	if next = u.next; next.IsZero() || now.Before(next) {
		u.mu.Unlock()
		return next
	}
	next = time.Time{}
	kept := u.list[:0]
	for _, f := range u.list {
		switch {
		case !f.isUntold(false):
			continue
		case f.logged:
		case now.Sub(f.at) >= untoldAfter:
			f.logged = true
			loud = append(loud, f)
		case next.IsZero():
			next = f.at.Add(untoldAfter)
		}
		kept = append(kept, f)
	}
	clear(u.list[len(kept):])
	u.list, u.next = kept, next
	u.mu.Unlock()
	u.write(loud)
	return next
}

// report forgets the failures and returns an error that joins them, nil if there
// are none. For Close it logs those that were not.
func (u *untold) report(op string, logAll bool) error {
	var loud []failure
	u.mu.Lock()
	n, may, errs := u.lost, u.may, u.more
	for _, f := range u.list {
		if !f.isUntold(true) && !f.closing {
			continue
		}
		n++
		may = may || mayBeStored(f.err)
		if len(errs) < maxReported {
			errs = append(errs, f.err)
		}
		if logAll && !f.logged {
			loud = append(loud, f)
		}
	}
	u.list, u.next, u.more, u.lost, u.may = nil, time.Time{}, nil, 0, false
	u.mu.Unlock()
	u.write(loud)
	if n == 0 {
		return nil
	}
	e := &Error{Code: CodeUnknown, Op: op, cause: errors.Join(errs...)}
	if !may {
		e.Code = CodeOf(errs[0])
	}
	e.Message = fmt.Sprintf("%d queued events were not stored", n)
	if n == 1 {
		e.Message = "1 queued event was not stored"
	}
	if may {
		e.Message += ", or it is not known"
	}
	e.Message += "; first: " + errs[0].Error()
	return e
}

// write logs failures, without a lock.
func (u *untold) write(fs []failure) {
	for _, f := range fs {
		u.log.Error("queued event not stored", "name", f.p.name, "id", f.p.id, "code", CodeOf(f.err), "err", f.err)
	}
}

func (f *failure) isUntold(tell bool) bool { return !f.p.isTold(tell) }

// mayBeStored reports whether a failure leaves that open.
func mayBeStored(err error) bool {
	switch CodeOf(err) {
	case CodeUnknown, CodeTimeout, CodeCancelled:
		return true
	}
	return false
}
