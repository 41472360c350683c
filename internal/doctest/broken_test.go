package doctest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const program = `package main

// doc:two
// Twice adds.
func Twice(n int) int {
	// doc:end
	if n < 0 {
		panic("never")
	}
	// doc:two

	return n + n
}

// doc:end

// T is a type.
type T struct{ A int }

// M is a method.
func (t *T) M() int { return t.A }
`

// The checks are worth nothing if they let things pass.
func TestBrokenDocs(t *testing.T) {
	tests := []struct {
		name, doc string
		want      []string // of each fault
	}{
		{"sound", "# A `b` Title!\n\n<!-- from a/main.go#two -->\n```go\n// Twice adds.\nfunc Twice(n int) int {\n\n\treturn n + n\n}\n```\n" +
			"[x](#a-b-title) [y](a/main.go) [z](https://example.com/no) ![i](a/main.go \"title\") `[no](link)`\n\n```sh\n$ go run ./a -x ./none # ./none\n```\n", nil},
		{"type", "<!-- from a/main.go#T -->\n```go\n// T is a type.\ntype T struct{ A int }\n```\n", nil},
		{"method", "<!-- from a/main.go#T.M -->\n\n  ```go\n  // M is a method.\n  func (t *T) M() int { return t.A }\n  ```\n", nil},
		{"no copy any more", "<!-- from a/main.go#T -->\n```go\n// T is a type.\ntype T struct{ B int }\n```\n",
			[]string{"  - type T struct{ B int }\n  + type T struct{ A int }\n"}},
		{"whole file", "<!-- from a/main.go -->\n```go\npackage main\n```\n", []string{"  + // T is a type."}},
		{"any language", "<!-- from a/x.txt -->\n```text\nother\n```\n", []string{"  - other\n  + text\n"}},
		{"no such file", "<!-- from a/none.go -->\n```go\n```\n", []string{"doc.md:2: origin \"a/none.go\""}},
		{"no such part", "<!-- from a/main.go#none -->\n```go\n```\n", []string{"no line \"// doc:none\""}},
		{"outside", "<!-- from ../main.go -->\n```go\n```\n", []string{"outside of the module"}},
		{"open region", "<!-- from a/open.txt#x -->\n```go\n```\n", []string{"has no \"// doc:end\""}},
		{"nested region", "<!-- from a/nested.txt#x -->\n```go\n```\n", []string{"region \"y\" begins inside region \"x\""}},
		{"a marker that is not above", "<!-- from a/none.go -->\ntext\n```go\nx := 1\n```\n", nil},
		{"statements", "```go\nx, err := f(ctx, func() error { return nil })\n```\n", nil},
		{"declarations", "```go\ntype X struct{}\n\nfunc f() {}\n```\n", nil},
		{"no Go", "```go\nx := := 1\n```\n", []string{"doc.md:2: expected operand"}},
		{"ellipsis", "```go\nf(…)\n```\n", []string{"no Go"}},
		{"dead link", "text\n[x](b/main.go)", []string{"doc.md:2: link \"b/main.go\": there is no b/main.go"}},
		{"dead named link", "[x]: b.md", []string{"there is no b.md"}},
		{"dead anchor", "[x](#none)", []string{"doc.md has no heading with the anchor #none"}},
		{"anchor elsewhere", "[x](other.md#here) [y](other.md#there) [z](other.md#here-1)", []string{"#there"}},
		{"link out", "[x](../x) [y](/etc/hosts)", []string{"leaves the module", "leaves the module"}},
		{"links in blocks are text", "```text\n[x](none)\n```\n", nil},
		{"dead package", "```sh\ngo build -o ./bin/x ./a && go test -run X ./none ./a/...\n```\n", []string{"doc.md:2: \"go build -o ./bin/x ./a && go test -run X ./none ./a/...\": there is no package ./none"}},
		{"dead package in the text", "run `go test ./none/...` now", []string{"there is no folder none"}},
		{"folder without Go", "```console\n$ go run ./empty\n```\n", []string{"./empty has no Go files"}},
		{"fence in a fence", "````md\n```go\nx := := 1\n```\n````\n", nil},
	}
	s := writeSite(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := s.page(tt.doc)
			var got []string
			got = append(got, s.checkCopies(p)...)
			got = append(got, s.checkLinks(p)...)
			got = append(got, s.checkCommands(p)...)
			if len(got) != len(tt.want) {
				t.Fatalf("%d faults, want %d:\n%s", len(got), len(tt.want), strings.Join(got, "\n"))
			}
			for i, want := range tt.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("fault %q, want %q", got[i], want)
				}
			}
		})
	}
}

func TestUpdate(t *testing.T) {
	s := writeSite(t)
	got, err := s.updated(s.page("a\n\n<!-- from a/main.go#T -->\n  ```go\n  old\n\n  older\n  ```\n\n```go\nkept := 1\n```\n<!-- from a/x.txt -->\n```text\n```\nz\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := "a\n\n<!-- from a/main.go#T -->\n  ```go\n  // T is a type.\n  type T struct{ A int }\n  ```\n\n```go\nkept := 1\n```\n<!-- from a/x.txt -->\n```text\ntext\n```\nz\n"
	if got != want {
		t.Errorf("got (-), want (+):\n%s", diff(got, want))
	}
	if faults := s.checkCopies(parsePage("doc.md", got)); faults != nil {
		t.Errorf("an updated page has faults: %v", faults)
	}
	if _, err := s.updated(s.page("<!-- from none.go -->\n```go\n```\n")); err == nil {
		t.Error("a page whose origin is gone was updated")
	}
}

func TestSlug(t *testing.T) {
	for title, want := range map[string]string{
		"Two commands": "two-commands", "`bus.Error`, codes & more": "buserror-codes--more",
		"R1/R3: fsync?": "r1r3-fsync", "See [the docs](x.md)": "see-the-docs", "Snake_case-and Ünï": "snake_case-and-ünï",
	} {
		if got := slug(title); got != want {
			t.Errorf("slug(%q) = %q, want %q", title, got, want)
		}
	}
}

// writeSite makes a module with what the pages of tests refer to.
func writeSite(t *testing.T) *site {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"doc.md": "", "other.md": "# Here\n## Here\n", "a/main.go": program, "a/x.txt": "text\n", "empty/x.txt": "",
		"a/open.txt": "// doc:x\nline\n", "a/nested.txt": "// doc:x\n// doc:y\n// doc:end\n", "testdata/bad.md": "[x](none)",
	} {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s, err := readSite(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.pages) != 2 {
		t.Fatalf("%d pages, want doc.md and other.md", len(s.pages))
	}
	return s
}

// page replaces doc.md.
func (s *site) page(text string) *page {
	s.pages["doc.md"] = parsePage("doc.md", text)
	return s.pages["doc.md"]
}
