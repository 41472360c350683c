package doctest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
)

// copyOf returns what an origin names: a file of the module, or with "#name" a
// region or a top-level declaration of it.
func copyOf(root, origin string) (string, error) {
	path, name, part := strings.Cut(origin, "#")
	if !filepath.IsLocal(path) {
		return "", fmt.Errorf("origin %q is outside of the module", origin)
	}
	src, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(path)))
	if err != nil {
		return "", fmt.Errorf("origin %q: %w", origin, err)
	}
	if !part {
		return strings.TrimRight(string(src), "\n"), nil
	}
	text, err := region(string(src), name)
	if err != nil {
		return "", fmt.Errorf("origin %q: %w", origin, err)
	}
	if text == "" && strings.HasSuffix(path, ".go") {
		if text, err = declaration(string(src), name); err != nil {
			return "", fmt.Errorf("origin %q: %w", origin, err)
		}
	}
	if text == "" {
		return "", fmt.Errorf("origin %q: %s has no line \"// doc:%s\" and no declaration of that name", origin, path, name)
	}
	return text, nil
}

// region returns what stands between "// doc:name" and "// doc:end", "" if there
// is no such region. Parts of one name are joined, each without its indentation.
func region(src, name string) (string, error) {
	var parts []string
	var lines []string // of the part that is open
	open := ""
	for line := range strings.SplitSeq(src, "\n") {
		mark, marked := strings.CutPrefix(strings.TrimSpace(line), "// doc:")
		switch {
		case marked && mark == "end" && open == "":
			return "", fmt.Errorf("\"// doc:end\" without a region")
		case marked && mark == "end":
			if open == name {
				parts = append(parts, dedent(lines))
			}
			open, lines = "", nil
		case marked && open != "":
			return "", fmt.Errorf("region %q begins inside region %q", mark, open)
		case marked:
			open = mark
		case open == name:
			lines = append(lines, line)
		}
	}
	if open != "" {
		return "", fmt.Errorf("region %q has no \"// doc:end\"", open)
	}
	text := strings.Join(parts, "\n")
	for strings.Contains(text, "\n\n\n") {
		text = strings.ReplaceAll(text, "\n\n\n", "\n\n")
	}
	return strings.Trim(text, "\n"), nil
}

// dedent removes the tabs that all lines begin with.
func dedent(lines []string) string {
	common := -1
	for _, l := range lines {
		if l != "" {
			if tabs := len(l) - len(strings.TrimLeft(l, "\t")); common < 0 || tabs < common {
				common = tabs
			}
		}
	}
	out := make([]string, len(lines))
	for i, l := range lines {
		if l != "" {
			out[i] = l[common:]
		}
	}
	return strings.Join(out, "\n")
}

// declaration returns the source of a top-level declaration with its comment; a
// method is named Type.Method.
func declaration(src, name string) (string, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "", src, parser.ParseComments)
	if err != nil {
		return "", err
	}
	for _, d := range file.Decls {
		if !declares(d, name) {
			continue
		}
		begin := d.Pos()
		switch d := d.(type) {
		case *ast.GenDecl:
			if d.Doc != nil {
				begin = d.Doc.Pos()
			}
		case *ast.FuncDecl:
			if d.Doc != nil {
				begin = d.Doc.Pos()
			}
		}
		return src[fset.Position(begin).Offset:fset.Position(d.End()).Offset], nil
	}
	return "", nil
}

func declares(d ast.Decl, name string) bool {
	switch d := d.(type) {
	case *ast.FuncDecl:
		full := d.Name.Name
		if d.Recv != nil {
			full = receiver(d.Recv.List[0].Type) + "." + full
		}
		return full == name
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				if s.Name.Name == name {
					return true
				}
			case *ast.ValueSpec:
				for _, n := range s.Names {
					if n.Name == name {
						return true
					}
				}
			}
		}
	}
	return false
}

func receiver(t ast.Expr) string {
	switch t := t.(type) {
	case *ast.StarExpr:
		return receiver(t.X)
	case *ast.IndexExpr:
		return receiver(t.X)
	case *ast.Ident:
		return t.Name
	}
	return ""
}

// parses reports why src, which begins at a line of a file, is no Go: neither a
// file, nor declarations, nor statements.
func parses(src, file string, line int) error {
	src = fmt.Sprintf("//line %s:%d\n%s\n", file, line, src)
	var err error
	for _, wrap := range []string{"%s", "package p\n%s", "package p\nfunc _() {\n%s}"} {
		if _, err = parser.ParseFile(token.NewFileSet(), "", fmt.Sprintf(wrap, src), parser.SkipObjectResolution); err == nil {
			return nil
		}
	}
	return err // the last, of statements, says most about a snippet
}
