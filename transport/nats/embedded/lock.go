package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// lockName is the file in Dir whose lock says that a server uses the folder.
// It stays when the server goes: removing it would let two servers lock two
// files of one name.
const lockName = "jitney.lock"

// errLocked is what the platform's lock returns when another holder has it.
var errLocked = errors.New("locked")

// LockedError says that another server, in this process or another, uses the
// folder.
type LockedError struct {
	Dir string
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("folder %q is used by another server; stop that one, connect to it, or choose another Dir", e.Dir)
}

// folderLock is held from Start to the end of Shutdown. The system releases it
// if the process dies.
type folderLock struct {
	f *os.File
}

func lockFolder(dir string) (*folderLock, error) {
	f, err := openLocked(filepath.Join(dir, lockName))
	if errors.Is(err, errLocked) {
		return nil, &LockedError{Dir: dir}
	}
	if err != nil {
		return nil, fmt.Errorf("lock folder: %w", err)
	}
	return &folderLock{f: f}, nil
}

func (l *folderLock) unlock() error { return l.f.Close() }
