package process

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// disk is a small file system of its own.
type disk struct{ dir string }

// newDisk mounts one. The test is skipped where that is not permitted: who is no
// administrator has no way to fill a disk that others do not use.
func newDisk(t *testing.T) *disk {
	t.Helper()
	d := &disk{t.TempDir()}
	if err := syscall.Mount("jitney", d.dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("mounting a small disk: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(d.dir, syscall.MNT_DETACH)) })
	return d
}

func (d *disk) filler() string { return filepath.Join(d.dir, "filler") }

// fill leaves no room on it.
func (d *disk) fill(t *testing.T) {
	t.Helper()
	f, err := os.Create(d.filler())
	require.NoError(t, err)
	defer f.Close()
	piece := make([]byte, 64<<10)
	for err == nil {
		_, err = f.Write(piece)
	}
	require.True(t, errors.Is(err, syscall.ENOSPC), "%v", err)
}

func (d *disk) free(t *testing.T) {
	t.Helper()
	require.NoError(t, os.Remove(d.filler()))
}
