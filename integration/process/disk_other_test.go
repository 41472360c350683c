//go:build unix && !linux

package process

import "testing"

// disk is a small file system of its own, which only Linux can make here.
type disk struct{ dir string }

func newDisk(t *testing.T) *disk {
	t.Helper()
	t.Skip("a small disk is mounted on Linux only")
	return nil
}

func (*disk) fill(*testing.T) {}
func (*disk) free(*testing.T) {}
