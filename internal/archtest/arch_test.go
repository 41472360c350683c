package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestImportDirection(t *testing.T) {
	g := list(t, module+"/...")
	require.Contains(t, g, module+"/bus")
	require.Contains(t, g, module+"/transport/nats")
	require.Empty(t, check(g, rules, upward))
}

// A program that uses only the memory driver links no NATS code, and nothing
// else that is not ours either.
func TestMemoryProgramLinksOnlyUs(t *testing.T) {
	g := list(t, module+"/bus", module+"/transport/memory")
	for path, p := range g {
		require.True(t, p.Standard || matches("./...", path), "%s is linked", path)
	}
}

// The rules are worth nothing if the checker lets things pass.
func TestCheckFindsViolations(t *testing.T) {
	std := pkg{ImportPath: "fmt", Standard: true}
	own := func(path string, imports ...string) pkg {
		p := pkg{ImportPath: module + "/" + path}
		for _, i := range imports {
			if rest, ok := strings.CutPrefix(i, "./"); ok {
				i = module + "/" + rest
			}
			p.Imports = append(p.Imports, i)
		}
		return p
	}
	lib := func(path string, imports ...string) pkg { return pkg{ImportPath: path, Imports: imports} }
	sound := []pkg{
		std, own("transport", "fmt"), own("codec"), own("session"), own("resilience", "fmt"),
		own("bus", "./transport", "./codec", "./session", "./resilience"),
		own("transport/memory", "./transport"),
		own("transport/nats", "./transport", "github.com/nats-io/nats.go/jetstream"),
		own("transport/nats/embedded", "./transport/nats", "github.com/nats-io/nats-server/v2/server"),
		own("examples/quickstart", "./bus", "./transport/memory", "./transport/nats/embedded"),
		lib("github.com/nats-io/nats.go/jetstream", "fmt"), lib("github.com/nats-io/nats-server/v2/server", "fmt"),
		lib("example.com/lib"),
	}
	tests := []struct {
		name string
		with pkg // replaces or joins the sound graph
		want []string
	}{
		{"sound", std, nil},
		{"seam to codec", own("transport", "./codec"), []string{
			"transport must not link codec: transport -> codec",
		}},
		{"memory to bus", own("transport/memory", "./transport", "./bus"), []string{
			"transport/memory must not link bus: transport/memory -> bus",
			"transport/memory must not link resilience: transport/memory -> bus -> resilience",
			"transport/memory must not link session: transport/memory -> bus -> session",
		}},
		{"driver to driver", own("transport/nats", "./transport", "./transport/memory"), []string{
			"transport/nats must not link transport/memory: transport/nats -> transport/memory",
			"transport/nats/embedded must not link transport/memory: transport/nats/embedded -> transport/nats -> transport/memory",
		}},
		{"server in the client's driver", own("transport/nats", "github.com/nats-io/nats-server/v2/server"), []string{
			"transport/nats must not link github.com/nats-io/nats-server/v2/server: transport/nats -> github.com/nats-io/nats-server/v2/server",
		}},
		{"library in the bus", own("bus", "example.com/lib"), []string{
			"bus must not link example.com/lib: bus -> example.com/lib",
		}},
		{"bus to a driver", own("bus", "./transport/memory"), []string{
			"bus must not link transport/memory: bus -> transport/memory",
		}},
		{"leaf to leaf", own("session", "./codec"), []string{
			"session must not link codec: session -> codec",
		}},
		{"no rule", own("helpers"), []string{"helpers has no rule: add one to internal/archtest"}},
		{"test upwards", pkg{ImportPath: module + "/resilience", XTestImports: []string{module + "/bus"}}, []string{
			"the tests of resilience must not import bus",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := graph{}
			for _, p := range append(slices.Clone(sound), tt.with) {
				g[p.ImportPath] = p
			}
			require.Equal(t, tt.want, check(g, rules, upward))
		})
	}
}

// list runs go list on packages and all that they link.
func list(t *testing.T, packages ...string) graph {
	t.Helper()
	touch(t)
	args := append([]string{"list", "-deps", "-json=ImportPath,Standard,Imports,TestImports,XTestImports"}, packages...)
	cmd := exec.CommandContext(t.Context(), "go", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "go list: %s", stderr.String())
	g := graph{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return g
		}
		require.NoError(t, err)
		g[p.ImportPath] = p
	}
}

// touch opens every folder of the module. go test caches a pass until a file or
// folder that the test opened changes, and does not see what go list opens.
func touch(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
			return nil
		case err == nil && d.Name() == ".git":
			return filepath.SkipDir
		}
		return err
	})
	require.NoError(t, err)
}
