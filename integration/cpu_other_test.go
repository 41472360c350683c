//go:build !unix

package integration_test

import "time"

func cpuTime() time.Duration { return 0 }
