package nats

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-bus/jitney/transport"
)

// Config says which server to use and how. The zero value with a URL works; so
// does the zero value alone, with a server on this machine's standard port.
type Config struct {
	// URL is where the servers are; several are separated by commas. Default
	// nats://127.0.0.1:4222. A user name and password, or a token, may be part of
	// it; errors and logs leave them out.
	URL string
	// Conn is a connection of the caller's, used instead of URL and of every other
	// setting of the connection. It is never closed, and none of its handlers is
	// replaced; a connection that closes for good is the caller's to deal with.
	Conn *nats.Conn
	// Server is a server in this process, such as an *embedded.Server, used
	// instead of URL. It is not shut down by Close.
	Server ConnProvider

	// Name is shown by the server's monitoring. Default "jitney <program>".
	Name string
	// CredentialsFile is the path of a .creds file with a JWT and its seed. It is
	// read at each connect, so that it may be rotated.
	CredentialsFile string
	// NKeyFile is the path of a file with an NKey seed.
	NKeyFile string
	// User and Password, or Token, authenticate where the server wants those.
	User, Password string
	Token          string
	// TLS is used if it is set or if a URL begins with tls://.
	TLS *tls.Config
	// Options are applied after the driver's own and may override them. Their
	// handlers are called as well as the driver's.
	Options []nats.Option
	// InboxPrefix begins the subjects of replies, so that permissions can keep
	// those of two roles apart. Default "_INBOX".
	InboxPrefix string
	// ConnectTimeout bounds how long Open waits for the server to be reachable.
	// Default 5 s.
	ConnectTimeout time.Duration

	// Namespace begins every subject and asset name, so that several buses share
	// a server: 1 to 32 of [a-z0-9_-]. Default "jitney".
	Namespace string
	// BindOnly makes the driver use what exists and create or change nothing:
	// operators own the streams, the bucket and the consumers.
	BindOnly bool

	// Replicas of each stream, bucket and consumer, 1 to 5. Default 1.
	Replicas int
	// Storage of the streams. Default jetstream.FileStorage.
	Storage jetstream.StorageType
	// MaxAge is how long an event stays. A group that is further behind loses
	// events. Default 7 days; negative: for ever.
	MaxAge time.Duration
	// MaxBytes bounds the event stream; when it is reached Publish reports
	// transport.ErrBacklog until events age out. Default 0: what the account has.
	MaxBytes int64
	// DedupWindow is how long the ID of an event is remembered. Default 2 min.
	DedupWindow time.Duration
	// DeadLetterMaxAge, DeadLetterMaxBytes and DeadLetterMaxMessages bound the
	// dead letters. When a number or size is reached, DropDeadLetters says what
	// happens; what is too old goes without a word. Defaults: 30 days, 0 (what the account has), 1,000,000.
	DeadLetterMaxAge      time.Duration
	DeadLetterMaxBytes    int64
	DeadLetterMaxMessages int64
	// DropDeadLetters drops the oldest dead letters when they are full, which is
	// logged. Default: adding is refused, so that the event stays with its group.
	// What the stream has decides for all its users: a stream that refuses is not
	// changed, but a conflict, and one that drops is accepted by the default.
	DropDeadLetters bool

	// DoubleAck makes Ack wait until the server confirms it, which costs a round
	// trip and makes a redelivery after success rarer.
	DoubleAck bool
	// SyncAlways says that each server has sync_interval: always in its settings, so
	// that what it acknowledged survives a power failure. A client cannot see that;
	// the setting changes nothing but what Open logs and Health says of durability.
	SyncAlways bool
	// Logger hears what is degraded or lost. Default: nobody.
	Logger *slog.Logger
}

// ConnProvider opens connections to a server in this process. *embedded.Server
// and *server.Server of nats-server are ones.
type ConnProvider = nats.InProcessConnProvider

// Defaults of Config.
const (
	defaultNamespace  = "jitney"
	defaultTimeout    = 5 * time.Second
	defaultMaxAge     = 7 * 24 * time.Hour
	defaultDedup      = 2 * time.Minute
	defaultDeadAge    = 30 * 24 * time.Hour
	defaultDeadLimit  = 1_000_000
	minDedup          = 100 * time.Millisecond // the server's
	maxReplicas       = 5                      // the server's
	defaultInbox      = "_INBOX"
	maxInbox          = 64
	maxConnectTimeout = time.Hour
)

func (c *Config) setDefaults() {
	if c.URL == "" {
		c.URL = nats.DefaultURL
	}
	if c.Name == "" {
		c.Name = "jitney " + filepath.Base(os.Args[0])
	}
	if c.InboxPrefix == "" {
		c.InboxPrefix = defaultInbox
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = defaultTimeout
	}
	if c.Namespace == "" {
		c.Namespace = defaultNamespace
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.MaxAge == 0 {
		c.MaxAge = defaultMaxAge
	}
	if c.DedupWindow == 0 {
		c.DedupWindow = defaultDedup
		if c.MaxAge > 0 {
			c.DedupWindow = min(c.DedupWindow, c.MaxAge)
		}
	}
	if c.DeadLetterMaxAge == 0 {
		c.DeadLetterMaxAge = defaultDeadAge
	}
	if c.DeadLetterMaxMessages == 0 {
		c.DeadLetterMaxMessages = defaultDeadLimit
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Validate reports every setting that cannot work, joined. Each error is a
// transport.ErrInvalid.
func (c Config) Validate() error {
	c.setDefaults()
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w config: %w", transport.ErrInvalid, fmt.Errorf(format, args...)))
	}
	if _, err := newNames(c.Namespace); err != nil {
		bad("Namespace: %w", err)
	}
	if c.Conn != nil && c.Server != nil {
		bad("Conn and Server exclude each other")
	}
	if c.Conn == nil && c.Server == nil {
		for _, u := range strings.Split(c.URL, ",") {
			if err := checkURL(strings.TrimSpace(u)); err != nil {
				bad("URL: %w", err)
			}
		}
	}
	ways := 0
	for _, set := range []bool{c.CredentialsFile != "", c.NKeyFile != "", c.User != "", c.Token != ""} {
		if set {
			ways++
		}
	}
	if ways > 1 {
		bad("set one of CredentialsFile, NKeyFile, User and Token")
	}
	if c.Password != "" && c.User == "" {
		bad("Password needs User")
	}
	if len(c.InboxPrefix) > maxInbox || strings.ContainsAny(c.InboxPrefix, "*> \t\r\n") ||
		strings.HasPrefix(c.InboxPrefix, ".") || strings.HasSuffix(c.InboxPrefix, ".") || strings.Contains(c.InboxPrefix, "..") {
		bad("InboxPrefix %q: it must be a subject without wildcards of at most %d bytes", c.InboxPrefix, maxInbox)
	}
	if c.ConnectTimeout < 0 || c.ConnectTimeout > maxConnectTimeout {
		bad("ConnectTimeout %v: it must be above 0 and at most %v", c.ConnectTimeout, maxConnectTimeout)
	}
	if c.Replicas < 1 || c.Replicas > maxReplicas {
		bad("Replicas %d: it must be 1 to %d", c.Replicas, maxReplicas)
	}
	if c.Storage != jetstream.FileStorage && c.Storage != jetstream.MemoryStorage {
		bad("Storage %d: it must be jetstream.FileStorage or jetstream.MemoryStorage", c.Storage)
	}
	if c.MaxBytes < 0 || c.DeadLetterMaxBytes < 0 || c.DeadLetterMaxMessages < 0 {
		bad("MaxBytes, DeadLetterMaxBytes and DeadLetterMaxMessages must not be negative")
	}
	if c.DedupWindow < minDedup {
		bad("DedupWindow %v: it must be at least %v", c.DedupWindow, minDedup)
	}
	if c.MaxAge > 0 && c.DedupWindow > c.MaxAge {
		bad("DedupWindow %v: it must not be longer than MaxAge %v", c.DedupWindow, c.MaxAge)
	}
	return errors.Join(errs...)
}

// where names the server for errors and logs, without its secrets.
func (c *Config) where() string {
	switch {
	case c.Conn != nil:
		return "the given connection"
	case c.Server != nil:
		return "the server in this process"
	}
	return redact(c.URL)
}

// redact leaves the user information out of a list of URLs.
func redact(urls string) string {
	list := strings.Split(urls, ",")
	for i, u := range list {
		u = strings.TrimSpace(u)
		scheme, rest, ok := strings.Cut(u, "://")
		if !ok {
			scheme, rest = "", u
		}
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			rest = "xxxxx@" + rest[at+1:]
		}
		if ok {
			rest = scheme + "://" + rest
		}
		list[i] = rest
	}
	return strings.Join(list, ",")
}

// checkURL says whether u can name a server. Its error leaves the secret out.
func checkURL(u string) error {
	full := u
	if !strings.Contains(u, "://") {
		full = "nats://" + u
	}
	p, err := url.Parse(full)
	if err != nil || p.Hostname() == "" {
		return fmt.Errorf("%q is no server URL", redact(u))
	}
	switch p.Scheme {
	case "nats", "tls", "ws", "wss":
		return nil
	}
	return fmt.Errorf("%q: the scheme must be nats, tls, ws or wss", redact(u))
}
