package archtest

const module = "github.com/jitney-bus/jitney"

// A rule lists what packages may link besides the standard library: in code,
// with everything that their imports bring along. Patterns are import paths;
// "..." at the end covers all below it and the path itself. Paths that begin
// with "./" are of this module.
type rule struct {
	packages []string
	links    []string // nil: nothing
}

const (
	natsClient = "github.com/nats-io/nats.go/..."
	natsServer = "github.com/nats-io/nats-server/v2/..."
)

// What nats.go and nats-server bring along.
var (
	natsClientLibs = []string{natsClient, "github.com/nats-io/nkeys/...", "github.com/nats-io/nuid/...",
		"github.com/klauspost/compress/...", "golang.org/x/crypto/...", "golang.org/x/sys/..."}
	natsServerLibs = []string{natsServer, "github.com/nats-io/jwt/v2/...", "github.com/minio/highwayhash/...",
		"github.com/google/go-tpm/...", "github.com/antithesishq/antithesis-sdk-go/...", "golang.org/x/time/..."}
	assertions = []string{"github.com/stretchr/testify/...", "github.com/davecgh/go-spew/...", "github.com/pmezard/go-difflib/...",
		"gopkg.in/yaml.v3/...", "go.yaml.in/yaml/...", "go.uber.org/goleak/..."}
	// OpenTelemetry without its SDK.
	telemetryAPI = []string{"go.opentelemetry.io/otel", "go.opentelemetry.io/otel/attribute/...", "go.opentelemetry.io/otel/baggage",
		"go.opentelemetry.io/otel/codes", "go.opentelemetry.io/otel/internal/...", "go.opentelemetry.io/otel/log/...",
		"go.opentelemetry.io/otel/metric/...", "go.opentelemetry.io/otel/propagation/...", "go.opentelemetry.io/otel/semconv/...",
		"go.opentelemetry.io/otel/trace/...", "go.opentelemetry.io/auto/sdk/...", "github.com/go-logr/...", "github.com/cespare/xxhash/v2/..."}
	leaves = []string{"./transport", "./codec", "./session", "./resilience"}
)

// The first rule that names a package is its rule. A package without one is a
// violation: decide what it may link, and write it here.
var rules = []rule{
	// Leaves: nothing of ours, and one chosen library each.
	{packages: []string{"./transport", "./codec", "./session", "./resilience"}},
	{packages: []string{"./codec/protobuf"}, links: []string{"./codec", "google.golang.org/protobuf/..."}},
	{packages: []string{"./codec/msgpack"}, links: []string{"./codec", "github.com/shamaton/msgpack/v3/..."}},
	{packages: []string{"./codec/cbor"}, links: []string{"./codec", "github.com/fxamacker/cbor/v2/...", "github.com/x448/float16/..."}},

	// The bus: the standard library and our leaves; never a driver.
	{packages: []string{"./bus"}, links: leaves},
	{packages: []string{"./bus/middleware", "./bus/filter"}, links: join(leaves, []string{"./bus", "golang.org/x/time/rate"})},

	// Drivers: the seam and the codecs; never the bus, never another driver.
	{packages: []string{"./transport/memory/..."}, links: []string{"./transport", "./codec", "./transport/memory/..."}},
	{packages: []string{"./transport/nats"}, links: join(natsClientLibs, []string{"./transport", "./codec", "./resilience"})},
	{packages: []string{"./transport/nats/embedded"}, links: join(natsClientLibs, natsServerLibs, []string{"./transport", "./codec", "./resilience", "./transport/nats"})},
	{packages: []string{"./transport/transporttest"}, links: join(assertions, []string{"./transport", "./codec"})},

	// Test kits for users: no server unless the name says so.
	{packages: []string{"./bus/bustest"}, links: join(leaves, assertions, []string{"./bus", "./transport/memory"})},
	{packages: []string{"./bus/bustest/natstest", "./internal/natstest"},
		links: join(leaves, assertions, natsClientLibs, natsServerLibs, []string{"./bus/...", "./transport/...", "./internal/natstest", "golang.org/x/time/rate"})},

	// On top of the bus.
	{packages: []string{"./metrics/..."}, links: join(leaves, []string{"./bus", "./metrics/...", "github.com/prometheus/...", "google.golang.org/protobuf/...",
		"github.com/beorn7/perks/...", "github.com/cespare/xxhash/v2/...", "github.com/munnerz/goautoneg/...", "golang.org/x/sys/...", "go.yaml.in/yaml/..."})},
	{packages: []string{"./health"}, links: join(leaves, []string{"./bus"})},
	{packages: []string{"./eventlog"}, links: join(leaves, []string{"./bus"})},
	{packages: []string{"./tracing"}, links: join(leaves, telemetryAPI, []string{"./bus"})}, // never the SDK
	{packages: []string{"./examples/...", "./integration/...", "./cmd/..."}, links: []string{"..."}},
	{packages: []string{"./internal/..."}, links: leaves},
}

// upward lists what the tests of packages may not import either.
var upward = []rule{
	{packages: []string{"./transport/...", "./codec/...", "./session", "./resilience"},
		links: []string{"./bus/...", "./metrics/...", "./integration/...", "./examples/...", "./cmd/..."}},
}

func join(lists ...[]string) []string {
	var all []string
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}
