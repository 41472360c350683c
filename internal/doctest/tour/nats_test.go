package tour_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-bus/jitney/bus"
	"github.com/jitney-bus/jitney/codec"
	"github.com/jitney-bus/jitney/codec/cbor"
	"github.com/jitney-bus/jitney/codec/msgpack"
	"github.com/jitney-bus/jitney/codec/protobuf"
	"github.com/jitney-bus/jitney/transport/nats"
	"github.com/jitney-bus/jitney/transport/nats/embedded"
)

func Example_embedded() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "tour")
	check(err)
	defer os.RemoveAll(dir)

	// doc:embedded
	server, err := embedded.Start(embedded.Config{
		Dir:        dir,           // keep events across restarts; the folder is locked
		SyncAlways: true,          // and across a power failure
		Listen:     "127.0.0.1:0", // for other processes of this machine; port 0 takes a free one
	})
	// doc:end
	check(err)
	defer server.Shutdown(ctx)
	// doc:embedded
	tr, err := nats.Open(ctx, nats.Config{Server: server}) // through memory; others use server.ClientURL()
	// doc:end
	check(err)

	b, err := bus.New(tr, bus.Config{Service: "accounts"})
	check(err)
	fmt.Println(b.Close(ctx))
	// Output: <nil>
}

func config(tlsConfig *tls.Config, log *slog.Logger) nats.Config {
	// doc:config
	cfg := nats.Config{
		// Where, and as whom. Instead of URL: Conn, a *nats.Conn that stays yours, or
		// Server, a server in this process. Options takes further nats.Option values.
		URL:             "tls://n1.example.com:4222,tls://n2.example.com:4222",
		Name:            "accounts-api",       // in the server's monitoring
		CredentialsFile: "/etc/app/bus.creds", // or NKeyFile, or User and Password, or Token
		TLS:             tlsConfig,
		InboxPrefix:     "_INBOX_accounts", // so that permissions can separate replies
		ConnectTimeout:  5 * time.Second,

		// What. Several buses share a server under different namespaces.
		Namespace: "shop", // subjects shop.*, streams SHOP_*
		BindOnly:  false,  // true: use what operators made, create and change nothing

		// How it is stored. What is not set takes a stream as it is.
		Replicas:    3, // of streams, bucket and consumers
		Storage:     jetstream.FileStorage,
		MaxAge:      14 * 24 * time.Hour, // of an event
		MaxBytes:    50 << 30,            // then Publish reports bus.CodeBacklog
		DedupWindow: 5 * time.Minute,     // how long WithID is remembered

		DeadLetterMaxAge:      90 * 24 * time.Hour,
		DeadLetterMaxBytes:    5 << 30,
		DeadLetterMaxMessages: 100_000,
		DropDeadLetters:       false, // true: when they are full, the oldest makes room

		DoubleAck:  true, // a round trip for each event, and fewer redeliveries
		SyncAlways: true, // each server has sync_interval: always; Health and the log then say no more of it
		Logger:     log,  // what is degraded or lost
	}
	// doc:end
	return cfg
}

// The example is valid and names every setting.
func TestConfigExample(t *testing.T) {
	if err := config(&tls.Config{}, slog.Default()).Validate(); err != nil {
		t.Error(err)
	}
	src, err := os.ReadFile("nats_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(src), "// doc:config")
	text, _, _ = strings.Cut(text, "// doc:end")
	for _, f := range reflect.VisibleFields(reflect.TypeFor[nats.Config]()) {
		if !strings.Contains(text, f.Name) {
			t.Errorf("the example of nats.Config does not name %s", f.Name)
		}
	}
}

func Example_codecs() {
	// doc:codecs
	cfg := bus.Config{
		Codec:  cbor.Codec,                                   // what this bus sends
		Codecs: []codec.Codec{msgpack.Codec, protobuf.Codec}, // what it reads as well; JSON always
	}
	// doc:end
	fmt.Println(cfg.Validate())
	// Output: <nil>
}

func Example_run() {
	// doc:run
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	// doc:end
	go stop()
	_, b := open()
	// doc:run

	// … make the bus b, register handlers …
	err := b.Run(ctx) // until the signal; then Close, which waits for running handlers
	// doc:end
	fmt.Println(err)
	// Output: <nil>
}
