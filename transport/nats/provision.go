package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-bus/jitney/transport"
)

const (
	// schemaVersion grows when the driver changes what it wants of its streams,
	// so that an old program does not take back what a newer one did.
	schemaVersion = 1
	schemaKey     = "jitney.schema"

	// minVersion and minLevel are of the first server that reads a work queue
	// reliably for another stream, which delayed events need.
	minVersion = "2.14"
	minLevel   = 4
)

// peersWait is how long the servers of a cluster may take to come together before a
// stream that wants more of them is a mistake.
const peersWait = 5 * time.Second

// checkServer says whether the server has what is needed.
func (t *Transport) checkServer(ctx context.Context) error {
	nc := t.link.conn()
	if v := nc.ConnectedServerVersion(); v != "" && olderThan(v, minVersion) {
		return fmt.Errorf("open %s: %w: nats-server is version %s, at least %s is needed",
			t.cfg.where(), transport.ErrConfig, v, minVersion)
	}
	var info *jetstream.AccountInfo
	tries := 0
	err := t.calls.try(ctx, "ask for the account's JetStream", func(ctx context.Context, js jetstream.JetStream) (err error) {
		info, err = js.AccountInfo(ctx)
		if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) ||
			errors.Is(err, nats.ErrNoResponders) {
			// While a cluster starts it has no leader to say so: ask again.
			if tries++; tries > 3 {
				return fmt.Errorf("%w: %w", transport.ErrConfig, errDisabled)
			}
			return nats.ErrNoResponders
		}
		return err
	})
	if err != nil {
		if t.cfg.BindOnly && errors.Is(err, transport.ErrPermission) {
			return nil // the version was checked, and nothing is created
		}
		return fmt.Errorf("open %s: %w", t.cfg.where(), err)
	}
	if info.API.Level < minLevel {
		return fmt.Errorf("open %s: %w: the JetStream API has level %d, at least %d is needed (nats-server %s)",
			t.cfg.where(), transport.ErrConfig, info.API.Level, minLevel, minVersion)
	}
	return nil
}

// olderThan compares the first two numbers of two versions. What is no version
// is not older.
func olderThan(version, limit string) bool {
	v, okV := majorMinor(version)
	l, okL := majorMinor(limit)
	return okV && okL && (v[0] < l[0] || v[0] == l[0] && v[1] < l[1])
}

func majorMinor(s string) (v [2]int, ok bool) {
	parts := strings.SplitN(strings.TrimPrefix(s, "v"), ".", 3)
	if len(parts) < 2 {
		return v, false
	}
	for i := range v {
		n, err := strconv.Atoi(parts[i])
		if err != nil {
			return v, false
		}
		v[i] = n
	}
	return v, true
}

// provision creates the streams and the bucket or brings them up to date.
func (t *Transport) provision(ctx context.Context) error {
	for _, want := range []jetstream.StreamConfig{t.retryStream(), t.eventStream(), t.deadLetterStream(), t.stateStream()} {
		if err := t.ensureStream(ctx, want); err != nil {
			return fmt.Errorf("open %s: %w", t.cfg.where(), err)
		}
	}
	return nil
}

// eventStream holds every event until it ages out. A full stream refuses events
// rather than drop old ones unseen.
func (t *Transport) eventStream() jetstream.StreamConfig {
	s := t.stream(t.names.events(), "events", t.names.below("evt"))
	s.Discard = jetstream.DiscardNew
	s.MaxAge = max(t.cfg.MaxAge, 0)
	s.MaxBytes = orUnlimited(t.cfg.MaxBytes)
	s.RePublish = &jetstream.RePublish{Source: t.names.below("evt"), Destination: t.names.below("live")}
	// A stream with schedules can neither refuse what is new nor have sources,
	// so that what is due comes from the other one.
	s.Sources = []*jetstream.StreamSource{{
		Name: t.names.retries(),
		SubjectTransforms: []jetstream.SubjectTransformConfig{{
			Source: t.names.below("due"), Destination: t.names.below("evt"),
		}},
	}}
	return s
}

// retryStream holds what one group sees and what is due later. A message leaves
// it when it is settled.
func (t *Transport) retryStream() jetstream.StreamConfig {
	s := t.stream(t.names.retries(), "retries and schedules", t.names.below("retry"), t.names.below("sched"), t.names.below("due"))
	s.Retention = jetstream.WorkQueuePolicy
	s.AllowMsgSchedules = true
	s.AllowRollup = true // implied by schedules
	return s
}

func (t *Transport) deadLetterStream() jetstream.StreamConfig {
	s := t.stream(t.names.deadLetters(), "dead letters", t.names.below("dlq"))
	s.Discard = jetstream.DiscardNew
	if t.cfg.DropDeadLetters {
		s.Discard = jetstream.DiscardOld
	}
	if s.MaxAge = max(t.cfg.DeadLetterMaxAge, 0); s.MaxAge > 0 {
		s.Duplicates = min(s.Duplicates, s.MaxAge) // which records do without
	}
	s.MaxBytes = orUnlimited(t.cfg.DeadLetterMaxBytes)
	s.MaxMsgs = orUnlimited(t.cfg.DeadLetterMaxMessages)
	return s
}

// stateStream is the key-value bucket of the Store.
func (t *Transport) stateStream() jetstream.StreamConfig {
	s := t.stream("KV_"+t.names.bucket(), "state", "$KV."+t.names.bucket()+".>")
	s.Discard = jetstream.DiscardNew
	s.MaxMsgsPerSubject = 1
	s.AllowRollup = true
	s.DenyDelete = true
	s.AllowMsgTTL = true
	s.SubjectDeleteMarkerTTL = deleteMarkerTTL
	return s
}

// stream returns what all streams have in common.
func (t *Transport) stream(name, what string, subjects ...string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: name, Description: "jitney " + what, Subjects: subjects,
		Storage: t.cfg.Storage, Replicas: t.cfg.Replicas, Duplicates: t.cfg.DedupWindow, AllowDirect: true,
		MaxMsgs: -1, MaxBytes: -1, MaxConsumers: -1, MaxMsgsPerSubject: -1, MaxMsgSize: -1,
		Metadata: map[string]string{schemaKey: strconv.Itoa(schemaVersion)},
	}
}

func orUnlimited(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}

// ensureStream creates the stream, or updates it where that loses nothing.
func (t *Transport) ensureStream(ctx context.Context, want jetstream.StreamConfig) error {
	began := time.Now()
	return t.calls.try(ctx, "stream "+want.Name, func(ctx context.Context, js jetstream.JetStream) error {
		info, err := js.Stream(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			if t.cfg.BindOnly {
				return fmt.Errorf("%w: it does not exist, and BindOnly creates nothing", transport.ErrConfig)
			}
			// Another process may create it at this moment, with the same
			// configuration or another.
			_, err = js.CreateStream(ctx, want)
			if api := (*jetstream.APIError)(nil); errors.As(err, &api) && api.ErrorCode == codeNoPeers && time.Since(began) > peersWait {
				return fmt.Errorf("%w: the cluster has too few servers for %d replicas: %s", transport.ErrConfig, want.Replicas, err)
			}
			if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
				return err
			}
			info, err = js.Stream(ctx, want.Name)
		}
		if err != nil {
			return err
		}
		have := info.CachedInfo().Config
		plan, diff := t.planStream(have, want)
		switch {
		case len(diff) > 0:
			return fmt.Errorf("%w: %s", transport.ErrConfig, strings.Join(diff, "; "))
		case plan == nil || t.cfg.BindOnly:
			return nil
		}
		_, err = js.UpdateStream(ctx, *plan)
		return err
	})
}

// planStream compares a stream with what is wanted. It returns the update to
// make, if any, or the differences that only an operator may resolve: those that
// would lose messages or that the server cannot change. What the configuration
// leaves at its default accepts what is there.
func (t *Transport) planStream(have, want jetstream.StreamConfig) (update *jetstream.StreamConfig, diff []string) {
	schema, err := strconv.Atoi(have.Metadata[schemaKey])
	if have.Metadata[schemaKey] != "" && err != nil {
		return nil, []string{fmt.Sprintf("metadata %s is %q, which is no version", schemaKey, have.Metadata[schemaKey])}
	}
	conflict := func(field string, have, want any) {
		diff = append(diff, fmt.Sprintf("%s is %v, wanted %v", field, have, want))
	}
	fixed := func(field string, have, want any) {
		if fmt.Sprint(have) != fmt.Sprint(want) {
			conflict(field, have, want)
		}
	}
	fixed("Retention", have.Retention, want.Retention)
	if schema > schemaVersion {
		return nil, diff // a newer program knows better
	}
	fixed("Subjects", have.Subjects, want.Subjects)
	if want.Name != t.names.deadLetters() || t.cfg.DropDeadLetters {
		fixed("Discard", have.Discard, want.Discard)
	}
	fixed("MaxMsgsPerSubject", unlimited(have.MaxMsgsPerSubject), unlimited(want.MaxMsgsPerSubject))
	fixed("AllowMsgSchedules", have.AllowMsgSchedules, want.AllowMsgSchedules)
	fixed("RePublish", describeRepublish(have.RePublish), describeRepublish(want.RePublish))
	fixed("Sources", describeSources(have.Sources), describeSources(want.Sources))
	if want.AllowMsgTTL {
		fixed("AllowMsgTTL", have.AllowMsgTTL, want.AllowMsgTTL)
	}
	if t.set.storage {
		fixed("Storage", have.Storage, want.Storage)
	}
	next := have
	changed := false
	// grow takes a larger limit over and refuses a smaller one.
	grow := func(field string, set bool, have, want int64, apply func()) {
		switch {
		case !set || have == want:
		case want > have:
			apply()
			changed = true
		default:
			conflict(field, describeLimit(have), describeLimit(want))
		}
	}
	grow("Replicas", t.set.replicas, int64(have.Replicas), int64(want.Replicas), func() { next.Replicas = want.Replicas })
	events, dead := want.Name == t.names.events(), want.Name == t.names.deadLetters()
	setAge := events && t.set.maxAge || dead && t.set.deadAge
	if age(have.MaxAge) > age(want.MaxAge) && setAge {
		conflict("MaxAge", have.MaxAge, want.MaxAge)
	} else if age(have.MaxAge) < age(want.MaxAge) && setAge {
		next.MaxAge, changed = want.MaxAge, true
	}
	grow("MaxBytes", events && t.set.maxBytes || dead && t.set.deadBytes, unlimited(have.MaxBytes), unlimited(want.MaxBytes),
		func() { next.MaxBytes = want.MaxBytes })
	grow("MaxMsgs", dead && t.set.deadMessages, unlimited(have.MaxMsgs), unlimited(want.MaxMsgs), func() { next.MaxMsgs = want.MaxMsgs })
	if t.set.dedup && have.Duplicates != want.Duplicates {
		next.Duplicates, changed = want.Duplicates, true
	}
	if schema < schemaVersion {
		next.Metadata = map[string]string{}
		for k, v := range have.Metadata {
			next.Metadata[k] = v
		}
		next.Metadata[schemaKey] = strconv.Itoa(schemaVersion)
		changed = true
	}
	if len(diff) > 0 || !changed {
		return nil, diff
	}
	return &next, nil
}

// explicit says which settings the caller chose, as opposed to defaults.
type explicit struct {
	storage, replicas, maxAge, maxBytes, dedup, deadAge, deadBytes, deadMessages bool
}

func explicitIn(c Config) explicit {
	return explicit{
		storage: c.Storage != 0, replicas: c.Replicas != 0, maxAge: c.MaxAge != 0, maxBytes: c.MaxBytes != 0,
		dedup: c.DedupWindow != 0, deadAge: c.DeadLetterMaxAge != 0, deadBytes: c.DeadLetterMaxBytes != 0,
		deadMessages: c.DeadLetterMaxMessages != 0,
	}
}

// unlimited makes "no limit" the largest number, so that limits compare.
func unlimited(n int64) int64 {
	if n <= 0 {
		return 1<<63 - 1
	}
	return n
}

func describeLimit(n int64) string {
	if n == unlimited(0) {
		return "unlimited"
	}
	return strconv.FormatInt(n, 10)
}

// age is unlimited for durations.
func age(d time.Duration) int64 { return unlimited(int64(d)) }

func describeRepublish(r *jetstream.RePublish) string {
	if r == nil {
		return "none"
	}
	return fmt.Sprintf("%s to %s (headers only: %t)", r.Source, r.Destination, r.HeadersOnly)
}

func describeSources(ss []*jetstream.StreamSource) string {
	var b strings.Builder
	for _, s := range ss {
		fmt.Fprintf(&b, "[%s %s", s.Name, s.FilterSubject)
		for _, tr := range s.SubjectTransforms {
			fmt.Fprintf(&b, " %s to %s", tr.Source, tr.Destination)
		}
		b.WriteString("]")
	}
	if b.Len() == 0 {
		return "none"
	}
	return b.String()
}
