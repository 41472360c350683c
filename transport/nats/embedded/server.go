package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/nats-io/nats-server/v2/server"
)

// ErrClosed is returned by InProcessConn after Shutdown began.
var ErrClosed = errors.New("embedded server is shut down")

// Server is a running NATS server. Its methods are safe for concurrent use.
type Server struct {
	ns   *server.Server
	cfg  Config
	dir  string // where the streams are
	lock *folderLock

	stop sync.Once
	done chan struct{} // closed when everything is released
	err  error         // of releasing; read after done
}

// Start runs a server and returns once it takes connections. The caller owns
// it and calls Shutdown. A *LockedError says that Dir is in use; an occupied
// port, an unwritable Dir and a damaged store are errors that say so.
func Start(cfg Config) (*Server, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("embedded server: %w", err)
	}
	s := &Server{cfg: cfg, done: make(chan struct{})}
	if err := s.openFolder(); err != nil {
		return nil, fmt.Errorf("embedded server: %w", err)
	}
	if err := s.run(); err != nil {
		return nil, errors.Join(fmt.Errorf("embedded server: %w", err), s.release())
	}
	return s, nil
}

// openFolder makes and locks the folder of the streams.
func (s *Server) openFolder() (err error) {
	if s.cfg.Dir == "" {
		s.dir, err = os.MkdirTemp("", "jitney-nats-")
		return err
	}
	// The server's working directory may change; its folder must not.
	if s.dir, err = filepath.Abs(s.cfg.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	s.lock, err = lockFolder(s.dir)
	return err
}

func (s *Server) run() error {
	o, err := s.cfg.options(s.dir)
	if err != nil {
		return err
	}
	ns, err := server.NewServer(o)
	if err != nil {
		return err
	}
	log := &logger{log: s.cfg.Logger}
	ns.SetLoggerV2(log, false, false, false)
	ns.Start()
	// What a server of its own would exit for, it only reports here.
	if err = log.fatal(); err == nil && !ns.ReadyForConnections(s.cfg.StartTimeout) {
		if err = log.fatal(); err == nil {
			err = fmt.Errorf("not ready after %v; see its log, or raise StartTimeout", s.cfg.StartTimeout)
		}
	}
	if err != nil {
		ns.Shutdown()
		return err
	}
	s.ns = ns
	return nil
}

// release gives the folder back once nothing uses it.
func (s *Server) release() error {
	if s.cfg.Dir == "" {
		return os.RemoveAll(s.dir)
	}
	return s.lock.unlock()
}

// InProcessConn opens a connection through memory. It is what nats.InProcessServer
// asks for. ErrClosed: the server is shut down.
func (s *Server) InProcessConn() (net.Conn, error) {
	c, err := s.ns.InProcessConn()
	if err != nil {
		return nil, ErrClosed
	}
	return c, nil
}

// ClientURL returns where other processes connect, or "" if Config.Listen is
// empty.
func (s *Server) ClientURL() string {
	if s.cfg.Listen == "" {
		return ""
	}
	return s.ns.ClientURL()
}

// Durable reports whether what is stored outlives the server, and synced
// whether it outlives the machine's power too.
func (s *Server) Durable() (kept, synced bool) {
	return s.cfg.Dir != "", s.cfg.SyncAlways
}

// Shutdown stops the server, which cuts its connections, and releases its
// folder. It waits for that until ctx ends; the shutdown goes on regardless, and
// a second Shutdown waits for it again. Close what uses the server first.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop.Do(func() {
		go func() {
			defer close(s.done)
			s.ns.Shutdown()
			s.ns.WaitForShutdown()
			s.err = s.release()
		}()
	})
	select {
	case <-s.done:
		return s.err
	case <-ctx.Done():
	}
	select {
	case <-s.done: // both at once
		return s.err
	default:
		return fmt.Errorf("embedded server: shutdown: %w", context.Cause(ctx))
	}
}
