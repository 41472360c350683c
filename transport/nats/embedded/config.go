package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Config says how a server runs. The zero value is a server in memory that only
// this process can reach.
type Config struct {
	// Name of the server, as clients see it. Default "jitney".
	Name string

	// Listen is "host:port" of a loopback address for clients of other
	// processes; port 0 takes a free one, see [Server.ClientURL]. Default: no
	// port at all. Whoever can reach the port may do anything: the server
	// checks no credentials, which is why other addresses are refused.
	Listen string

	// Dir is the folder that keeps the streams; it is made if missing. One
	// server at a time may use it, in this process or another. Default: a
	// temporary folder, removed by Shutdown.
	Dir string
	// SyncAlways writes each message to the disk itself before acknowledging
	// it, so that it survives a power failure. It costs a few hundred
	// microseconds and more for each message of a lone publisher. Default:
	// acknowledged messages survive the death of the process, and those of the
	// last two minutes may be lost with the machine.
	SyncAlways bool

	// MaxMemory bounds the bytes of streams kept in memory. Default: three
	// quarters of the memory of the machine, or of GOMEMLIMIT.
	MaxMemory int64
	// MaxStore bounds the bytes of streams kept in Dir. Default: three quarters
	// of what is free on its disk.
	MaxStore int64
	// MaxPayload is the largest message in bytes, headers included.
	// Default 1 MiB.
	MaxPayload int

	// StartTimeout is how long Start waits until the server is ready, which
	// includes the recovery of what Dir keeps. Default 30 s.
	StartTimeout time.Duration
	// Logger receives what the server reports: its warnings and errors, and its
	// notices at Debug. Default: silent.
	Logger *slog.Logger
}

// setDefaults fills what the caller left open.
func (c *Config) setDefaults() {
	if c.Name == "" {
		c.Name = "jitney"
	}
	if c.MaxPayload == 0 {
		c.MaxPayload = server.MAX_PAYLOAD_SIZE
	}
	if c.StartTimeout == 0 {
		c.StartTimeout = 30 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// validate reports everything that is wrong, after setDefaults.
func (c *Config) validate() error {
	var errs []error
	if strings.ContainsAny(c.Name, " \t\r\n") {
		errs = append(errs, fmt.Errorf("invalid Name %q: it must not contain white space", c.Name))
	}
	if c.MaxMemory < 0 || c.MaxStore < 0 {
		errs = append(errs, errors.New("MaxMemory and MaxStore must not be negative"))
	}
	if c.MaxPayload < 0 || c.MaxPayload > server.MAX_PAYLOAD_MAX_SIZE {
		errs = append(errs, fmt.Errorf("MaxPayload is %d; it must be between 1 and %d bytes", c.MaxPayload, server.MAX_PAYLOAD_MAX_SIZE))
	}
	if c.StartTimeout < 0 {
		errs = append(errs, errors.New("StartTimeout must not be negative"))
	}
	if c.SyncAlways && c.Dir == "" {
		errs = append(errs, errors.New("SyncAlways needs a Dir to keep data in"))
	}
	if c.Listen != "" {
		if _, _, err := loopback(c.Listen); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// options translates the configuration; dir is the folder of the streams.
func (c *Config) options(dir string) (*server.Options, error) {
	o := &server.Options{
		ServerName:             c.Name,
		NoSigs:                 true,
		DontListen:             c.Listen == "",
		MaxPayload:             int32(c.MaxPayload),
		JetStream:              true,
		DisableJetStreamBanner: true,
		StoreDir:               dir,
		SyncAlways:             c.SyncAlways,
		JetStreamMaxMemory:     c.MaxMemory,
		JetStreamMaxStore:      c.MaxStore,
	}
	if c.Listen != "" {
		host, port, err := loopback(c.Listen)
		if err != nil {
			return nil, err
		}
		o.Host, o.Port = host, port
	}
	return o, nil
}

// loopback splits "host:port", with the port as the server wants it (-1: any).
func loopback(listen string) (string, int, error) {
	host, p, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, fmt.Errorf("invalid Listen %q: it must be host:port: %w", listen, err)
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("invalid Listen %q: the port must be a number from 0 to 65535", listen)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", 0, fmt.Errorf("invalid Listen %q: it must be a loopback address such as 127.0.0.1:0; for other machines run a nats-server of its own, with credentials", listen)
	}
	if port == 0 {
		return host, server.RANDOM_PORT, nil
	}
	return host, int(port), nil
}
