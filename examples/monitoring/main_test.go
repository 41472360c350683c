package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport/memory"
)

// Whoever asks while the shop is open gets metrics and probes.
func TestServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	done := make(chan error, 1)
	go func() { done <- serve(ctx, memory.New(memory.Config{}), l, &out) }()

	get := func(path string) (int, string) {
		res, err := http.Get("http://" + l.Addr().String() + path)
		require.NoError(t, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return res.StatusCode, string(body)
	}
	require.Eventually(t, func() bool { code, _ := get("/readyz"); return code == http.StatusOK }, time.Minute, 10*time.Millisecond)
	code, body := get("/livez")
	require.Equal(t, http.StatusOK, code, body)
	require.Eventually(t, func() bool {
		_, body := get("/metrics")
		for _, want := range []string{
			`commands_processed_total{handler="shop",type="order.pay"}`, "dead_letter_queue_size", "active_sessions",
			`circuit_breaker_state{group="",kind="command",type="order.pay"}`, `backpressure_active{queue="publish"}`,
			`event_processing_duration_seconds_bucket{group="mailer",handler="default",type="order.paid",le="+Inf"}`,
		} {
			if !bytes.Contains([]byte(body), []byte(want)) {
				return false
			}
		}
		return true
	}, time.Minute, 50*time.Millisecond)
	cancel()
	require.NoError(t, <-done)
	require.Contains(t, out.String(), "of 14 metrics moved")
}
