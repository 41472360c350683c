package metrics

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config sets up the metrics of a bus. The zero value works.
type Config struct {
	// Namespace is put before each name, with an underscore. Default: none.
	Namespace string
	// ConstLabels are on every metric, such as the name of one of several buses in a
	// process. They must not be among the labels that the metrics have themselves.
	// Default: none.
	ConstLabels prometheus.Labels
	// MaxHandlers bounds the handlers that have series of their own, and the message
	// types, the queues and the groups of all processes likewise. Those that come later share one, with "other" in each label.
	// A handler of events takes about 100 series with classic histograms. Default
	// 200, at most 10,000.
	MaxHandlers int
	// PollInterval is how long after an answer the dead letters, sessions and groups
	// of all processes are asked for again; longer if the answer takes more than a
	// twentieth of it. Default 15 s, at least 1 s; negative: they are never asked
	// for, and left out.
	PollInterval time.Duration
	// Logger is told (Warn) when they cannot be had, once until they can. Default:
	// silent.
	Logger *slog.Logger
}

const (
	defaultMaxHandlers  = 200
	maxHandlers         = 10_000
	defaultPollInterval = 15 * time.Second
	minPollInterval     = time.Second
)

var namespacePattern = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// Validate reports every setting that breaks its rule, joined. Register calls it.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Namespace != "" && !namespacePattern.MatchString(c.Namespace) {
		bad("Config.Namespace: %q does not match %s", c.Namespace, namespacePattern)
	}
	for _, own := range []string{labelType, labelGroup, labelHandler, labelReason, labelKind, labelQueue, labelWhat} {
		if _, ok := c.ConstLabels[own]; ok {
			bad("Config.ConstLabels: %q is a label of the metrics themselves", own)
		}
	}
	if c.MaxHandlers < 0 || c.MaxHandlers > maxHandlers {
		bad("Config.MaxHandlers: %d is not between 0, for the default, and %d", c.MaxHandlers, maxHandlers)
	}
	if c.PollInterval > 0 && c.PollInterval < minPollInterval {
		bad("Config.PollInterval: %v is under %v", c.PollInterval, minPollInterval)
	}
	return errors.Join(errs...)
}

func (c *Config) setDefaults() {
	if c.MaxHandlers == 0 {
		c.MaxHandlers = defaultMaxHandlers
	}
	if c.PollInterval == 0 {
		c.PollInterval = defaultPollInterval
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.ConstLabels = maps.Clone(c.ConstLabels)
}
