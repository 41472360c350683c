package bus

import (
	"cmp"
	"path"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"
)

// funcNames finds names for functions that were given as values.
type funcNames struct {
	program string // the directory of package main, "" if that is not known
}

func newFuncNames() *funcNames {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return &funcNames{}
	}
	return &funcNames{program: packageOfDir(info.Path)}
}

func (n *funcNames) filter(f Filter) string { return cmp.Or(f.Name, n.of(f.Pass)) }

func (n *funcNames) middleware(ms []Middleware) (names []string) {
	for _, m := range ms {
		names = append(names, n.of(m))
	}
	return names
}

func (n *funcNames) chain(all, own []Middleware) (links []Link) {
	for _, name := range n.middleware(all) {
		links = append(links, Link{Name: name})
	}
	for _, name := range n.middleware(own) {
		links = append(links, Link{Name: name, Own: true})
	}
	return links
}

// of returns the name of the function f.
func (n *funcNames) of(f any) string {
	pc := reflect.ValueOf(f).Pointer()
	// Of the functions that are inlined where f begins, f itself is the last.
	frames := runtime.CallersFrames([]uintptr{pc + 1})
	frame, more := frames.Next()
	for more {
		frame, more = frames.Next()
	}
	return n.clean(frame.Function, frame.File)
}

// clean turns the symbol of a function that is defined in file into
// package.function or package.type.method. A function literal is named by the
// function that it is in: that is what made the middleware.
//
// Such a symbol tells where the literal ended up, not where it comes from: if
// middleware.Timeout is inlined in main.run, its literal is main.run.Timeout.func1.
// The file tells the package then.
func (n *funcNames) clean(symbol, file string) string {
	pkg, rest, ok := strings.Cut(symbol[strings.LastIndexByte(symbol, '/')+1:], ".")
	if !ok {
		return cmp.Or(symbol, "unknown")
	}
	pkg = strings.ReplaceAll(pkg, "%2e", ".")
	rest = strings.TrimSuffix(strings.ReplaceAll(rest, "[...]", ""), "-fm")
	parts := strings.Split(rest, ".")
	last := len(parts)
	for last > 1 && isLiteral(parts[last-1]) {
		last--
	}
	if last < len(parts) && last > 1 {
		pkg = n.origin(pkg, file)
		first := last - 1
		if strings.HasPrefix(parts[first-1], "(") { // a method's receiver
			first--
		}
		parts = parts[first:last]
	} else {
		parts = parts[:last]
	}
	return pkg + "." + strings.NewReplacer("(*", "", ")", "").Replace(strings.Join(parts, "."))
}

// origin returns the package of a literal that may have been inlined into pkg.
func (n *funcNames) origin(pkg, file string) string {
	dir := packageOfDir(path.Dir(file))
	switch {
	case strings.HasSuffix(file, "_test.go"): // its functions are used nowhere else
		return pkg
	case dir == "" || pkg == "main" && dir == n.program:
		return pkg
	}
	return dir
}

// packageOfDir is the likely name of the package in a directory: its last part that
// is no version.
func packageOfDir(dir string) string {
	for {
		base, _, _ := strings.Cut(path.Base(dir), "@") // in the module cache
		if base == "." || base == "/" {
			return ""
		}
		if len(base) < 2 || base[0] != 'v' || !isNumber(base[1:]) {
			return base
		}
		dir = path.Dir(dir)
	}
}

// isLiteral reports whether the compiler gave this part of a name to a function
// literal.
func isLiteral(part string) bool {
	for _, prefix := range []string{"func", "gowrap", "deferwrap", ""} {
		if number, ok := strings.CutPrefix(part, prefix); ok && isNumber(number) {
			return true
		}
	}
	return part == "" || part == "glob" // glob..func1: in a variable's value
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
