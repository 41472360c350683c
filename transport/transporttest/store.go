package transporttest

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
)

func storeCases() []testCase {
	return []testCase{
		{name: "StoreCreate", run: storeCreate},
		{name: "StoreUpdate", run: storeUpdate},
		{name: "StoreDelete", run: storeDelete},
		{name: "StoreExpires", run: storeExpires},
		{name: "StoreRenewal", run: storeRenewal},
		{name: "StoreTTLRoundsUp", run: storeTTLRoundsUp},
		{name: "StoreValuesAreCopied", run: storeValuesAreCopied},
		{name: "StoreInvalidKey", run: storeInvalidKey},
		{name: "StoreCreateRace", run: storeCreateRace},
		{name: "StoreCompareAndSet", run: storeCompareAndSet},
	}
}

func (e *env) create(s transport.Store, key, value string, ttl time.Duration) uint64 {
	e.t.Helper()
	rev, err := s.Create(e.ctx(), key, []byte(value), ttl)
	require.NoError(e.t, err, "create %s", key)
	require.NotZero(e.t, rev)
	return rev
}

func (e *env) requireGone(s transport.Store, key string) {
	e.t.Helper()
	_, err := s.Get(e.ctx(), key)
	require.ErrorIs(e.t, err, transport.ErrNotFound, key)
}

func storeCreate(e *env) {
	one, two := e.open().Store(), e.open().Store()
	e.requireGone(one, "owner.a")
	binary := "\x00\xff\r\n"
	rev := e.create(one, "owner.a", binary, 0)
	got, err := two.Get(e.ctx(), "owner.a")
	require.NoError(e.t, err)
	require.Equal(e.t, transport.Entry{Key: "owner.a", Value: []byte(binary), Revision: rev}, got)
	_, err = two.Create(e.ctx(), "owner.a", []byte("other"), 0)
	require.ErrorIs(e.t, err, transport.ErrExists)
	e.create(two, "owner.A", "keys have case", 0)
	e.create(two, "x_Y-z=.1", "", 0)
	got, err = one.Get(e.ctx(), "x_Y-z=.1")
	require.NoError(e.t, err)
	require.Empty(e.t, got.Value)
	require.False(e.t, got.Deleted)
}

func storeUpdate(e *env) {
	one, two := e.open().Store(), e.open().Store()
	_, err := one.Update(e.ctx(), "k", []byte("v"), 1, 0)
	require.ErrorIs(e.t, err, transport.ErrConflict, "a key that is not there")
	first := e.create(one, "k", "v1", 0)
	second, err := two.Update(e.ctx(), "k", []byte("v2"), first, 0)
	require.NoError(e.t, err)
	require.Greater(e.t, second, first)
	_, err = one.Update(e.ctx(), "k", []byte("v3"), first, 0)
	require.ErrorIs(e.t, err, transport.ErrConflict, "an old revision")
	_, err = one.Update(e.ctx(), "k", []byte("v3"), second+1000, 0)
	require.ErrorIs(e.t, err, transport.ErrConflict, "a revision that never was")
	got, err := one.Get(e.ctx(), "k")
	require.NoError(e.t, err)
	require.Equal(e.t, transport.Entry{Key: "k", Value: []byte("v2"), Revision: second}, got)
	require.NoError(e.t, one.Delete(e.ctx(), "k", 0))
	_, err = one.Update(e.ctx(), "k", []byte("v4"), second, 0)
	require.ErrorIs(e.t, err, transport.ErrConflict, "a key that is gone")
}

func storeDelete(e *env) {
	s := e.open().Store()
	require.NoError(e.t, s.Delete(e.ctx(), "k", 0))
	require.NoError(e.t, s.Delete(e.ctx(), "k", 7))
	first := e.create(s, "k", "v1", 0)
	second, err := s.Update(e.ctx(), "k", []byte("v2"), first, 0)
	require.NoError(e.t, err)
	require.ErrorIs(e.t, s.Delete(e.ctx(), "k", first), transport.ErrConflict)
	_, err = s.Get(e.ctx(), "k")
	require.NoError(e.t, err)
	require.NoError(e.t, s.Delete(e.ctx(), "k", second))
	e.requireGone(s, "k")
	require.NoError(e.t, s.Delete(e.ctx(), "k", second))
	third := e.create(s, "k", "v3", 0)
	require.Greater(e.t, third, second, "revisions do not start over")
	require.NoError(e.t, s.Delete(e.ctx(), "k", 0))
	e.requireGone(s, "k")
}

// awaitGone waits for a key to expire. The watch makes it an event; expiry is
// never early.
func (e *env) awaitGone(s transport.Store, key string, notBefore time.Time) {
	e.t.Helper()
	for w := e.watch(s, key); ; {
		if x := e.change(w); x.Key == "" {
			if _, err := s.Get(e.ctx(), key); errors.Is(err, transport.ErrNotFound) {
				break // it went before the watch began
			}
		} else if x.Deleted {
			break
		}
	}
	require.False(e.t, time.Now().Before(notBefore), "%s expired early", key)
	e.requireGone(s, key)
}

func storeExpires(e *env) {
	s := e.open().Store()
	e.create(s, "stays", "v", 0)
	before := time.Now()
	rev := e.create(s, "lease.a", "v", e.ttl)
	e.awaitGone(s, "lease.a", before.Add(e.ttl))
	_, err := s.Update(e.ctx(), "lease.a", nil, rev, e.ttl)
	require.ErrorIs(e.t, err, transport.ErrConflict)
	e.create(s, "lease.a", "w", 0) // free again
	e.pass(2 * e.ttl)
	for _, key := range []string{"stays", "lease.a"} {
		_, err = s.Get(e.ctx(), key)
		require.NoError(e.t, err, key)
	}
}

// storeRenewal: each Update starts the TTL again; with 0 it ends it.
func storeRenewal(e *env) {
	s := e.open().Store()
	rev := e.create(s, "k", "v", 2*e.ttl)
	kept := e.create(s, "kept", "v", 2*e.ttl)
	_, err := s.Update(e.ctx(), "kept", []byte("for ever"), kept, 0)
	require.NoError(e.t, err)
	var renewed time.Time
	for range 4 {
		e.pass(e.ttl)
		renewed = time.Now()
		rev, err = s.Update(e.ctx(), "k", []byte("v"), rev, 2*e.ttl)
		require.NoError(e.t, err)
	}
	e.awaitGone(s, "k", renewed.Add(2*e.ttl))
	_, err = s.Get(e.ctx(), "kept")
	require.NoError(e.t, err)
}

func storeTTLRoundsUp(e *env) {
	s := e.open().Store()
	before := time.Now()
	e.create(s, "k", "v", 50*time.Millisecond)
	e.awaitGone(s, "k", before.Add(time.Second))
}

func storeValuesAreCopied(e *env) {
	s := e.open().Store()
	value := []byte("before")
	rev, err := s.Create(e.ctx(), "k", value, 0)
	require.NoError(e.t, err)
	copy(value, "spoilt")
	got, err := s.Get(e.ctx(), "k")
	require.NoError(e.t, err)
	require.Equal(e.t, "before", string(got.Value))
	copy(got.Value, "spoilt")
	got, err = s.Get(e.ctx(), "k")
	require.NoError(e.t, err)
	require.Equal(e.t, "before", string(got.Value))
	require.Equal(e.t, rev, got.Revision)
}

func storeInvalidKey(e *env) {
	s := e.open().Store()
	for _, key := range []string{"", ".", "a.", ".a", "a..b", "*", "a.*", ">", "a.>", "a b", "a\x00", "a/b", "ü"} {
		_, err := s.Create(e.ctx(), key, nil, 0)
		require.ErrorIs(e.t, err, transport.ErrInvalid, "create %q", key)
		_, err = s.Get(e.ctx(), key)
		require.ErrorIs(e.t, err, transport.ErrInvalid, "get %q", key)
		_, err = s.Update(e.ctx(), key, nil, 1, 0)
		require.ErrorIs(e.t, err, transport.ErrInvalid, "update %q", key)
		require.ErrorIs(e.t, s.Delete(e.ctx(), key, 0), transport.ErrInvalid, "delete %q", key)
		if key != "" {
			_, err = s.Watch(e.ctx(), key)
			require.ErrorIs(e.t, err, transport.ErrInvalid, "watch %q", key)
		}
	}
}

func storeCreateRace(e *env) {
	stores := []transport.Store{e.open().Store(), e.open().Store()}
	ctx := e.ctx()
	for round := range 10 {
		results := make(chan error, 8)
		for w := range 8 {
			go func() {
				_, err := stores[w%2].Create(ctx, fmt.Sprintf("k%d", round), []byte{byte(w)}, 0)
				results <- err
			}()
		}
		won := 0
		for range 8 {
			if err := e.result(results); err == nil {
				won++
			} else {
				require.ErrorIs(e.t, err, transport.ErrExists)
			}
		}
		require.Equal(e.t, 1, won)
	}
}

// storeCompareAndSet: concurrent counters lose no step.
func storeCompareAndSet(e *env) {
	stores := []transport.Store{e.open().Store(), e.open().Store()}
	e.create(stores[0], "n", "0", 0)
	ctx := e.ctx()
	const workers, steps = 4, 15
	var wg sync.WaitGroup
	errs := make(chan error, workers)
	for w := range workers {
		s := stores[w%2]
		wg.Go(func() {
			for done := 0; done < steps; {
				got, err := s.Get(ctx, "n")
				if err != nil {
					errs <- err
					return
				}
				n, err := strconv.Atoi(string(got.Value))
				if err != nil {
					errs <- err
					return
				}
				_, err = s.Update(ctx, "n", []byte(strconv.Itoa(n+1)), got.Revision, 0)
				switch {
				case err == nil:
					done++
				case !errors.Is(err, transport.ErrConflict):
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		require.NoError(e.t, err)
	default:
	}
	got, err := stores[1].Get(e.ctx(), "n")
	require.NoError(e.t, err)
	require.Equal(e.t, strconv.Itoa(workers*steps), string(got.Value))
}
