//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd || windows)

package embedded

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// openLocked refuses: a folder that cannot be locked could be opened twice, and
// two servers would destroy what it keeps.
func openLocked(string) (*os.File, error) {
	return nil, fmt.Errorf("file locks on %s: %w; leave Dir empty, or run a nats-server of its own", runtime.GOOS, errors.ErrUnsupported)
}
