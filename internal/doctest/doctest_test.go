package doctest

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the copied blocks of the documentation anew")

// root is the module, seen from this package.
const root = "../.."

func TestDocs(t *testing.T) {
	s, err := readSite(root)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		rewrite(t, s)
		if s, err = readSite(root); err != nil {
			t.Fatal(err)
		}
	}
	for _, must := range []string{"README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/guarantees.md", "docs/wire.md"} {
		if s.pages[must] == nil {
			t.Errorf("there is no %s", must)
		}
	}
	for _, p := range s.pages {
		t.Run(p.path, func(t *testing.T) {
			for _, f := range slices.Concat(s.checkCopies(p), s.checkLinks(p), s.checkCommands(p)) {
				t.Error(f)
			}
		})
	}
}

func rewrite(t *testing.T, s *site) {
	for _, p := range s.pages {
		text, err := s.updated(p)
		if err != nil {
			t.Fatal(err)
		}
		if text == strings.Join(p.lines, "\n") {
			continue
		}
		if err := os.WriteFile(filepath.Join(root, filepath.FromSlash(p.path)), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Logf("wrote %s", p.path)
	}
}

// The README shows the first program whole, and the commands that do the set-up.
func TestReadme(t *testing.T) {
	s, err := readSite(root)
	if err != nil {
		t.Fatal(err)
	}
	readme := s.pages["README.md"]
	if readme == nil {
		t.Fatal("there is no README.md")
	}
	if !slices.ContainsFunc(readme.blocks, func(b block) bool { return b.origin == "examples/quickstart/main.go" }) {
		t.Error("the README does not show the first program: <!-- from examples/quickstart/main.go -->")
	}
	for _, command := range []string{"go run ./examples/orders", "go test ./..."} {
		if !slices.Contains(readme.lines, command) {
			t.Errorf("the README has no line %q", command)
		}
	}
}

// docs/wire.md lists the headers that the code writes, and the codes of errors.
func TestWireIsComplete(t *testing.T) {
	constant := regexp.MustCompile(`=\s*(transport\.HeaderPrefix|deadPrefix) \+ "([A-Za-z-]+)"`)
	code := regexp.MustCompile(`Code\w* +Code = "(\w+)"`)
	want := map[string]bool{}
	for _, file := range []string{"bus/header.go", "bus/error.go", "transport/nats/header.go", "transport/nats/deadletter_record.go"} {
		src, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range constant.FindAllStringSubmatch(string(src), -1) {
			if m[2] == "Dead-" {
				continue // the prefix itself
			}
			want[map[string]string{"transport.HeaderPrefix": "Jitney-", "deadPrefix": "Jitney-Dead-"}[m[1]]+m[2]] = true
		}
		for _, m := range code.FindAllStringSubmatch(string(src), -1) {
			want[m[1]] = true
		}
	}
	if len(want) < 30 {
		t.Fatalf("found only %d names in the code: %v", len(want), want)
	}
	s, err := readSite(root)
	if err != nil {
		t.Fatal(err)
	}
	wire := s.pages["docs/wire.md"]
	if wire == nil {
		t.Fatal("there is no docs/wire.md")
	}
	text := strings.Join(wire.lines, "\n")
	for name := range want {
		if !regexp.MustCompile(`\b` + regexp.QuoteMeta(name) + `($|[^A-Za-z])`).MatchString(text) {
			t.Errorf("docs/wire.md does not tell of %s", name)
		}
	}
	for _, name := range regexp.MustCompile(`Jitney-[A-Z][A-Za-z]*(-[A-Z][A-Za-z]*)*-?`).FindAllString(text, -1) {
		if !want[name] && name != "Jitney-Dead-" {
			t.Errorf("docs/wire.md tells of %s, which the code does not have", name)
		}
	}
}
