package archtest

import (
	"fmt"
	"slices"
	"strings"
)

// A pkg is one package as go list describes it.
type pkg struct {
	ImportPath                         string
	Standard                           bool
	Imports, TestImports, XTestImports []string
}

// A graph holds the packages of the module and all that they link, by path.
type graph map[string]pkg

// check returns one line for each thing that a package of the module links
// against its rule, with the chain of imports that leads there.
func check(g graph, rules, upward []rule) []string {
	var bad []string
	for _, path := range sorted(g) {
		if !matches("./...", path) {
			continue
		}
		r := ruleOf(path, rules)
		if r == nil {
			bad = append(bad, fmt.Sprintf("%s has no rule: add one to internal/archtest", short(path)))
			continue
		}
		chains := reach(g, path)
		for _, dep := range sorted(chains) {
			if dep != path && dep != "C" && !g[dep].Standard && !matchesAny(r.links, dep) {
				bad = append(bad, fmt.Sprintf("%s must not link %s: %s", short(path), short(dep), strings.Join(chains[dep], " -> ")))
			}
		}
		if r := ruleOf(path, upward); r != nil {
			for _, dep := range slices.Concat(g[path].TestImports, g[path].XTestImports) {
				if matchesAny(r.links, dep) {
					bad = append(bad, fmt.Sprintf("the tests of %s must not import %s", short(path), short(dep)))
				}
			}
		}
	}
	return bad
}

// reach returns a shortest chain of imports to each package that from links.
func reach(g graph, from string) map[string][]string {
	chains := map[string][]string{from: {short(from)}}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		for _, dep := range g[queue[0]].Imports {
			if _, seen := chains[dep]; !seen {
				chains[dep] = append(slices.Clone(chains[queue[0]]), short(dep))
				queue = append(queue, dep)
			}
		}
	}
	return chains
}

func ruleOf(path string, rules []rule) *rule {
	for i := range rules {
		if matchesAny(rules[i].packages, path) {
			return &rules[i]
		}
	}
	return nil
}

func matchesAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, path) })
}

func matches(pattern, path string) bool {
	if rest, ok := strings.CutPrefix(pattern, "./"); ok {
		pattern = module + "/" + rest
	}
	if pattern == "..." {
		return true
	}
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == base || strings.HasPrefix(path, base+"/")
	}
	return path == pattern
}

func short(path string) string { return strings.TrimPrefix(path, module+"/") }

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
