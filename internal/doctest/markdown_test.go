package doctest

import (
	"regexp"
	"strings"
	"unicode"
)

// page is a Markdown file taken apart.
type page struct {
	path    string // from the root of the module, with slashes
	lines   []string
	blocks  []block
	links   []link
	code    []link // inline code, whose target is the code
	anchors map[string]bool
}

// block is a fenced block of code.
type block struct {
	lang   string
	origin string // what it is a copy of, "" if it is none
	first  int    // index of the line after the opening fence
	last   int    // index of the closing fence
	indent string // of the fences
	text   string // without indent
}

// link is a link or a piece of inline code, with the number of its line.
type link struct {
	line   int
	target string
}

var (
	fenceLine  = regexp.MustCompile("^(\\s*)(```+|~~~+)\\s*([^`\\s]*)[^`]*$")
	originLine = regexp.MustCompile(`^\s*<!--\s*from\s+(\S+)\s*-->\s*$`)
	heading    = regexp.MustCompile(`^#{1,6}\s+(.*?)\s*#*\s*$`)
	inlineCode = regexp.MustCompile("`[^`]+`")
	inlineLink = regexp.MustCompile(`\]\(\s*<?([^)>\s]+)>?(?:\s+"[^"]*")?\s*\)`)
	namedLink  = regexp.MustCompile(`^\s{0,3}\[[^\]]+\]:\s*<?([^>\s]+)>?`)
	htmlAnchor = regexp.MustCompile(`<a\s+(?:id|name)="([^"]+)"`)
	linkText   = regexp.MustCompile(`!?\[([^\]]*)\]\([^)]*\)`)
)

// parsePage takes a Markdown file apart. A block whose fence is never closed
// ends with the file.
func parsePage(path, text string) *page {
	p := &page{path: path, lines: strings.Split(text, "\n"), anchors: map[string]bool{}}
	origin := ""
	for i := 0; i < len(p.lines); i++ {
		line := strings.TrimSuffix(p.lines[i], "\r")
		if m := fenceLine.FindStringSubmatch(line); m != nil {
			b := block{lang: m[3], origin: origin, first: i + 1, indent: m[1]}
			origin = ""
			var body []string
			for i++; i < len(p.lines) && !closes(p.lines[i], m[2]); i++ {
				body = append(body, strings.TrimPrefix(p.lines[i], b.indent))
			}
			b.last = min(i, len(p.lines))
			b.text = strings.Join(body, "\n")
			p.blocks = append(p.blocks, b)
			continue
		}
		if m := originLine.FindStringSubmatch(line); m != nil {
			origin = m[1]
			continue
		}
		if strings.TrimSpace(line) != "" {
			origin = ""
		}
		p.prose(i+1, line)
	}
	return p
}

// closes reports whether a line is the end of a block that fence opened.
func closes(line, fence string) bool {
	s := strings.TrimSpace(line)
	return len(s) >= len(fence) && strings.Trim(s, fence[:1]) == ""
}

// prose reads a line outside of blocks.
func (p *page) prose(n int, line string) {
	if m := heading.FindStringSubmatch(line); m != nil {
		p.anchor(slug(m[1]))
	}
	for _, m := range htmlAnchor.FindAllStringSubmatch(line, -1) {
		p.anchors[m[1]] = true
	}
	for _, c := range inlineCode.FindAllString(line, -1) {
		p.code = append(p.code, link{n, strings.Trim(c, "`")})
	}
	line = inlineCode.ReplaceAllString(line, "code")
	for _, m := range inlineLink.FindAllStringSubmatch(line, -1) {
		p.links = append(p.links, link{n, m[1]})
	}
	if m := namedLink.FindStringSubmatch(line); m != nil {
		p.links = append(p.links, link{n, m[1]})
	}
}

// anchor adds the anchor of a heading; the second of one name gets a number.
func (p *page) anchor(name string) {
	unique := name
	for i := 1; p.anchors[unique]; i++ {
		unique = name + "-" + string(rune('0'+i))
	}
	p.anchors[unique] = true
}

// slug is the anchor that GitHub gives a heading.
func slug(title string) string {
	title = linkText.ReplaceAllString(title, "$1")
	var b strings.Builder
	for _, r := range strings.ToLower(title) {
		switch {
		case r == ' ':
			b.WriteByte('-')
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			b.WriteRune(r)
		}
	}
	return b.String()
}
