package bus

import (
	"container/heap"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// tally counts what one handler has done. A success costs an atomic addition and
// the look at another word; a failure also a lock and a clock.
//
// A tally that is one of many of its key, such as that of a session's handler,
// counts into their sum too, which stays when the handler goes. A nil one counts
// nothing.
type tally struct {
	sum    *tally
	key    tallyKey // of a sum
	opened bool     // of a sum: it has a handler, guarded by tallies.mu

	metered atomic.Pointer[[]metered] // of a sum; nil as long as nothing measures

	succeeded atomic.Uint64
	streak    atomic.Uint64 // failures since the last success
	failed    [len(codes)]atomic.Uint64

	retried, redelivered, deadLettered atomic.Uint64
	uncaptured                         atomic.Uint64
	filtered, returned, refused        atomic.Uint64

	mu    sync.Mutex // guards what follows
	last  lastFailure
	waits dueTimes // of runs that were put off
}

// lastFailure is the last error of a handler.
type lastFailure struct {
	code Code
	text string
	at   time.Time
}

// codes are those that are counted apart, and in the last place every other one.
var codes = [...]Code{
	CodeInvalid, CodeNoHandler, CodeBusy, CodeUnavailable, CodeTimeout, CodeCancelled, CodeUnknown,
	CodeFailed, CodePanic, CodeTooLarge, CodeBacklog, CodeConflict, CodeNotFound, CodePermission, CodeClosed,
	CodeOpen,
	codeOther,
}

// codeOther stands in statistics for the codes that handlers make up.
const codeOther Code = "other"

// codeIndex is the place of an error's code in codes, and the code.
func codeIndex(err error) (int, Code) {
	code := codeOfRun(err)
	if i := slices.Index(codes[:], code); i >= 0 {
		return i, code
	}
	return len(codes) - 1, code
}

// ran counts a run that has ended with err.
func (t *tally) ran(err error) {
	if err != nil {
		t.fail(err)
		return
	}
	for ; t != nil; t = t.sum {
		t.succeeded.Add(1)
		if t.streak.Load() != 0 {
			t.streak.Store(0)
		}
	}
}

const maxStatsError = 256

func (t *tally) fail(err error) {
	i, code := codeIndex(err)
	last := lastFailure{code, errorText(err), time.Now()}
	for ; t != nil; t = t.sum {
		t.failed[i].Add(1)
		t.streak.Add(1)
		t.mu.Lock()
		t.last = last
		t.mu.Unlock()
	}
}

// errorText is an error's text, short and on one line.
func errorText(err error) string {
	return cut(printable(cut(err.Error(), maxStatsError)), maxStatsError)
}

// step counts a step that is not a run.
func (t *tally) step(stage Stage, delay time.Duration) {
	if t != nil && stage == StageRetrying {
		t.wait(delay)
	}
	for ; t != nil; t = t.sum {
		switch stage {
		case StageRetrying:
			t.retried.Add(1)
		case StageReturned:
			t.returned.Add(1)
		case StageDeadLettered:
			t.deadLettered.Add(1)
		case StageFiltered:
			t.filtered.Add(1)
		}
	}
}

// unkept counts a failed command whose dead letter is not stored.
func (t *tally) unkept() {
	for ; t != nil; t = t.sum {
		t.uncaptured.Add(1)
	}
}

// redeliver counts a run of a message that the group had been handed before.
func (t *tally) redeliver() {
	for ; t != nil; t = t.sum {
		t.redelivered.Add(1)
	}
}

// refuse counts a message that did not reach the handler.
func (t *tally) refuse(err error) {
	last := lastFailure{CodeOf(err), errorText(err), time.Now()}
	for ; t != nil; t = t.sum {
		t.refused.Add(1)
		t.mu.Lock()
		t.last = last
		t.mu.Unlock()
	}
}

// maxWaits bounds the runs whose due times are known.
const maxWaits = 10_000

// wait notes a run that is due after delay.
func (t *tally) wait(delay time.Duration) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waits.overdue(now)
	if len(t.waits) < maxWaits {
		heap.Push(&t.waits, now.Add(delay))
	}
}

// waiting is how many runs are put off and not due yet.
func (t *tally) waiting(now time.Time) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waits.overdue(now)
	return len(t.waits)
}

// dueTimes is a heap, the earliest first.
type dueTimes []time.Time

// overdue drops those that are due.
func (d *dueTimes) overdue(now time.Time) {
	for len(*d) > 0 && !now.Before((*d)[0]) {
		heap.Pop(d)
	}
}

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (d dueTimes) Len() int           { return len(d) }
func (d dueTimes) Less(i, j int) bool { return d[i].Before(d[j]) }
func (d dueTimes) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *dueTimes) Push(x any)        { *d = append(*d, x.(time.Time)) }

func (d *dueTimes) Pop() any {
	last := len(*d) - 1
	x := (*d)[last]
	*d = (*d)[:last]
	return x
}

// add adds what t has counted to s. It reads every counter once, each of which
// only grows.
func (t *tally) add(s *HandlerStats) {
	for i := range t.failed {
		if n := t.failed[i].Load(); n > 0 {
			if s.Errors == nil {
				s.Errors = map[Code]uint64{}
			}
			s.Errors[codes[i]] += n
			s.Failures += n
		}
	}
	s.Executions = s.Failures + t.succeeded.Load()
	s.ConsecutiveFailures = t.streak.Load()
	s.Retries = t.retried.Load()
	s.Redelivered = t.redelivered.Load()
	s.DeadLettered = t.deadLettered.Load()
	s.Uncaptured = t.uncaptured.Load()
	s.Filtered = t.filtered.Load()
	s.Returned = t.returned.Load()
	s.Refused = t.refused.Load()
	t.mu.Lock()
	s.LastErrorCode, s.LastError, s.LastErrorAt = t.last.code, t.last.text, t.last.at
	t.mu.Unlock()
}

// tallies has the tallies of a bus, which are never taken away, so that what they
// count never shrinks.
type tallies struct {
	mu     sync.Mutex
	all    map[tallyKey]*tally
	meters []*meterUse
}

type tallyKey struct {
	kind                 Kind
	name, group, handler string
}

// maxTallies bounds the handlers that are counted apart. Beyond it those of one
// message are counted together, as maxedOut.
const (
	maxTallies = 1000
	maxedOut   = "other"
)

// of returns the tally of all handlers of a key.
func (ts *tallies) of(key tallyKey) *tally {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t := ts.all[key]; t != nil {
		return t
	}
	if len(ts.all) >= maxTallies {
		key.group, key.handler = maxedOut, maxedOut
		if t := ts.all[key]; t != nil {
			return t
		}
	}
	if ts.all == nil {
		ts.all = map[tallyKey]*tally{}
	}
	t := &tally{key: key}
	ts.all[key] = t
	return t
}

// open returns the tally of a handler that is about to be registered. single says
// that it is the only one of its key.
func (ts *tallies) open(who *identity, single bool) *tally {
	sum := ts.of(who.key())
	if single {
		return sum
	}
	return &tally{sum: sum}
}

func (i *identity) key() tallyKey { return tallyKey{i.kind, i.name, i.group, i.handler} }

// snapshot returns every key with its tally.
func (ts *tallies) snapshot() map[tallyKey]*tally {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	all := make(map[tallyKey]*tally, len(ts.all))
	for k, t := range ts.all {
		all[k] = t
	}
	return all
}

// sendTally counts the calls that send one message type.
type sendTally struct {
	ok, filtered atomic.Uint64
	failed       [len(codes)]atomic.Uint64
}

// count counts a call that has returned err.
func (t *sendTally) count(err error) {
	if err == nil {
		t.ok.Add(1)
		return
	}
	i, _ := codeIndex(err)
	t.failed[i].Add(1)
}

// event counts an event whose call has returned err, and which came to the end of
// the sending chain if passed is nil or says so.
func (t *sendTally) event(passed *passage, err error) {
	if err == nil && passed != nil && !passed.passed {
		t.filtered.Add(1)
		return
	}
	t.count(err)
}

func (t *sendTally) stats(kind Kind, name string) SendStats {
	s := SendStats{Kind: kind, Name: name, OK: t.ok.Load(), Filtered: t.filtered.Load()}
	for i := range t.failed {
		if n := t.failed[i].Load(); n > 0 {
			if s.Errors == nil {
				s.Errors = map[Code]uint64{}
			}
			s.Errors[codes[i]] = n
		}
	}
	return s
}
