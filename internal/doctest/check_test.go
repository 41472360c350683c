package doctest

import (
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// site is the Markdown of a module.
type site struct {
	root  string
	pages map[string]*page
}

// readSite reads every .md file below root, apart from those of tests.
func readSite(root string) (*site, error) {
	s := &site{root: root, pages: map[string]*page{}}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); file != root && (name == "testdata" || strings.HasPrefix(name, ".")) {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(file) != ".md" {
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		s.pages[rel] = parsePage(rel, string(text))
		return nil
	})
	return s, err
}

// checkCopies compares the blocks of p that are copies, and parses other Go.
func (s *site) checkCopies(p *page) (faults []string) {
	for _, b := range p.blocks {
		at := fmt.Sprintf("%s:%d", p.path, b.first)
		switch {
		case b.origin != "":
			want, err := copyOf(s.root, b.origin)
			if err != nil {
				faults = append(faults, at+": "+err.Error())
			} else if b.text != want {
				faults = append(faults, fmt.Sprintf("%s: this is no longer %s (- here, + there); run go test ./internal/doctest -update\n%s",
					at, b.origin, diff(b.text, want)))
			}
		case b.lang == "go":
			if err := parses(b.text, p.path, b.first+1); err != nil {
				faults = append(faults, fmt.Sprintf("%v: this is no Go", err))
			}
		}
	}
	return faults
}

// updated returns the text of p with its copies as they should be.
func (s *site) updated(p *page) (string, error) {
	var out []string
	next := 0
	for _, b := range p.blocks {
		if b.origin == "" {
			continue
		}
		want, err := copyOf(s.root, b.origin)
		if err != nil {
			return "", fmt.Errorf("%s:%d: %w", p.path, b.first, err)
		}
		out = append(out, p.lines[next:b.first]...)
		for line := range strings.SplitSeq(want, "\n") {
			if line != "" {
				line = b.indent + line
			}
			out = append(out, line)
		}
		next = b.last
	}
	return strings.Join(append(out, p.lines[next:]...), "\n"), nil
}

// checkLinks follows the links of p that stay in the module.
func (s *site) checkLinks(p *page) (faults []string) {
	for _, l := range p.links {
		if strings.Contains(l.target, "://") || strings.HasPrefix(l.target, "mailto:") {
			continue
		}
		file, anchor, _ := strings.Cut(l.target, "#")
		if plain, err := url.PathUnescape(file); err == nil {
			file = plain
		}
		to := p.path
		if file != "" {
			to = path.Join(path.Dir(p.path), file)
		}
		switch _, err := os.Stat(filepath.Join(s.root, filepath.FromSlash(to))); {
		case strings.HasPrefix(file, "/") || !filepath.IsLocal(filepath.FromSlash(to)):
			faults = append(faults, fmt.Sprintf("%s:%d: link %q leaves the module; use a path relative to this file", p.path, l.line, l.target))
		case err != nil:
			faults = append(faults, fmt.Sprintf("%s:%d: link %q: there is no %s", p.path, l.line, l.target, to))
		case anchor != "" && path.Ext(to) == ".md" && !s.pages[to].anchors[anchor]:
			faults = append(faults, fmt.Sprintf("%s:%d: link %q: %s has no heading with the anchor #%s", p.path, l.line, l.target, to, anchor))
		}
	}
	return faults
}

// checkCommands looks for the packages that go commands of p name.
func (s *site) checkCommands(p *page) (faults []string) {
	look := func(line int, text string) {
		for _, pkg := range packagesOf(text) {
			if err := s.isPackage(pkg); err != nil {
				faults = append(faults, fmt.Sprintf("%s:%d: %q: %v", p.path, line, strings.TrimSpace(text), err))
			}
		}
	}
	for _, b := range p.blocks {
		switch b.lang {
		case "sh", "bash", "shell", "console":
			for i, line := range strings.Split(b.text, "\n") {
				look(b.first+i+1, line)
			}
		}
	}
	for _, c := range p.code {
		look(c.line, c.target)
	}
	return faults
}

// packagesOf returns the relative package paths that go commands in a line of
// shell are given.
func packagesOf(line string) (pkgs []string) {
	line, _, _ = strings.Cut(line, " #")
	for _, cmd := range strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune("&|;()", r) }) {
		words := strings.Fields(strings.TrimPrefix(strings.TrimSpace(cmd), "$ "))
		if len(words) < 2 || words[0] != "go" {
			continue
		}
		switch words[1] {
		case "run", "test", "build", "vet", "install", "list":
		default:
			continue
		}
		for i, w := range words[2:] {
			if strings.HasPrefix(w, "./") && words[i+1] != "-o" { // words[i+1] is the word before w
				pkgs = append(pkgs, w)
				if words[1] == "run" {
					break // the rest are the program's
				}
			}
		}
	}
	return pkgs
}

// isPackage says why a path such as ./bus or ./bus/... is no package.
func (s *site) isPackage(pkg string) error {
	dir, all := strings.CutSuffix(pkg, "...")
	dir = path.Clean(dir)
	if all {
		if info, err := os.Stat(filepath.Join(s.root, filepath.FromSlash(dir))); err != nil || !info.IsDir() {
			return fmt.Errorf("there is no folder %s", dir)
		}
		return nil
	}
	entries, err := os.ReadDir(filepath.Join(s.root, filepath.FromSlash(dir)))
	if err != nil {
		return fmt.Errorf("there is no package %s", pkg)
	}
	for _, e := range entries {
		if path.Ext(e.Name()) == ".go" {
			return nil
		}
	}
	return fmt.Errorf("%s has no Go files", pkg)
}

// around is how many common lines diff shows before and after a difference.
const around = 2

// diff shows where two texts differ, line by line.
func diff(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	// common[i][j] is how many lines of x[i:] and y[j:] are common, in order.
	common := make([][]int, len(x)+1)
	for i := range common {
		common[i] = make([]int, len(y)+1)
	}
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			if x[i] == y[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var lines []string
	for i, j := 0, 0; i < len(x) || j < len(y); {
		switch {
		case i < len(x) && j < len(y) && x[i] == y[j]:
			lines = append(lines, "    "+x[i])
			i, j = i+1, j+1
		case j == len(y) || i < len(x) && common[i+1][j] >= common[i][j+1]:
			lines = append(lines, "  - "+x[i])
			i++
		default:
			lines = append(lines, "  + "+y[j])
			j++
		}
	}
	var out strings.Builder
	shown := -1
	for i := range lines {
		near := lines[max(i-around, 0):min(i+around+1, len(lines))]
		if !slices.ContainsFunc(near, func(l string) bool { return l[2] != ' ' }) {
			continue
		}
		if i != shown+1 {
			out.WriteString("    ...\n")
		}
		out.WriteString(lines[i] + "\n")
		shown = i
	}
	return out.String()
}
