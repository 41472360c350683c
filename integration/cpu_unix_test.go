//go:build unix

package integration_test

import (
	"syscall"
	"time"
)

// cpuTime is what this process has used of all its cores: it moves less than the
// clock when the machine is busy with something else.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
