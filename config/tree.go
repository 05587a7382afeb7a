package config

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds on what is read, far above any real configuration. They keep a broken
// or hostile file from taking the process down with it.
const (
	maxFileBytes = 16 << 20
	maxNodes     = 2 << 20 // after aliases are expanded
	maxDepth     = 100     // nested flow collections; entries begun on one line
)

// position is a place in a file; line and column count from 1.
type position struct {
	file      string
	line, col int
}

func (p position) String() string { return fmt.Sprintf("%s:%d:%d", p.file, p.line, p.col) }

type nodeKind uint8

const (
	kindNull nodeKind = iota
	kindScalar
	kindList
	kindMapping
	// kindBroken stands where the text makes no sense; text is the message. It is
	// reported by the decoder, which knows the key path.
	kindBroken
)

// node is one value of a file with aliases and merge keys resolved. Nodes are
// never changed once built, as an alias shares its anchor's.
type node struct {
	kind    nodeKind
	pos     position
	text    string // scalar: its value, before ${ENV} is expanded
	quoted  bool   // scalar: quoted or a block, so text whatever it looks like
	items   []*node
	entries []entry
	size    int // nodes below and including this one
}

// entry is one key of a mapping.
type entry struct {
	key    string
	pos    position
	value  *node
	dupOf  *position // the first place, if this key was set before in the same mapping
	merged bool      // came through a merge key, so that an explicit key replaces it
}

// syntaxError is what parseTree returns for text that is not YAML.
type syntaxError struct {
	pos  position
	text string
}

func (e *syntaxError) Error() string { return e.pos.String() + ": " + e.text }

// parseTree reads one YAML document. An empty one is an empty mapping.
func parseTree(file string, src []byte) (_ *node, err error) {
	start := position{file, 1, 1}
	// The parser is a dependency that reads what people type. A crash in it must
	// not take the gateway down on reload.
	defer func() {
		if r := recover(); r != nil {
			err = &syntaxError{start, fmt.Sprintf("this is not readable as YAML (%v)", r)}
		}
	}()
	if len(src) > maxFileBytes {
		return nil, &syntaxError{start, fmt.Sprintf("file is too large: %d bytes, at most %d", len(src), maxFileBytes)}
	}
	src = bytes.TrimPrefix(src, []byte("\ufeff"))
	if bad := invalidUTF8(src); bad >= 0 {
		line := 1 + bytes.Count(src[:bad], []byte("\n"))
		col := bad - bytes.LastIndexByte(src[:bad], '\n')
		return nil, &syntaxError{position{file, line, col}, "file is not UTF-8 text"}
	}
	tokens := lexer.Tokenize(string(src))
	if at := tooDeep(tokens); at != nil {
		return nil, &syntaxError{position{file, at.Line, at.Column}, fmt.Sprintf("nested deeper than %d levels", maxDepth)}
	}
	// Duplicate keys are found by the builder, since the parser stops at the first.
	parsed, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, newSyntaxError(file, src, err)
	}
	b := &builder{file: file, anchors: map[string]*node{}}
	return b.document(parsed)
}

func invalidUTF8(src []byte) int {
	for i := 0; i < len(src); {
		r, n := utf8.DecodeRune(src[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// tooDeep returns where nesting passes maxDepth. The parser recurses once a
// level and has no bound of its own.
func tooDeep(tokens token.Tokens) *token.Position {
	flow, line, onLine := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			line, onLine = t.Position.Line, 0
		}
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType, token.TagType, token.AnchorType:
			// "- - - -" nests a level with two bytes. Flow lists hold no such tokens.
			if flow == 0 {
				onLine++
			}
		}
		// A block nests by at least a column a level, and no real key ends that far to the right.
		farRight := t.Type == token.MappingValueType && flow == 0 && t.Position.Column > 20*maxDepth
		if flow > maxDepth || onLine > maxDepth || farRight {
			return t.Position
		}
	}
	return nil
}

// newSyntaxError turns the parser's error into one with our position and words.
func newSyntaxError(file string, src []byte, err error) error {
	var ye yaml.Error
	if !errors.As(err, &ye) || ye.GetToken() == nil {
		text, _, _ := strings.Cut(err.Error(), "\n")
		return &syntaxError{position{file, 1, 1}, text}
	}
	at := ye.GetToken().Position
	text := ye.GetMessage()
	if line := sourceLine(src, at.Line); strings.Contains(text, "must be specified") && strings.Contains(line, "${") {
		text += ` (inside { } and [ ], put quotes around a value with ${…})`
	} else if strings.ContainsAny(text, "@%`") && strings.Contains(text, "reserved") {
		text += " (put quotes around the value)"
	}
	return &syntaxError{position{file, at.Line, at.Column}, text}
}

func sourceLine(src []byte, line int) string {
	for ; line > 1; line-- {
		_, rest, ok := bytes.Cut(src, []byte("\n"))
		if !ok {
			return ""
		}
		src = rest
	}
	first, _, _ := bytes.Cut(src, []byte("\n"))
	return string(first)
}

// builder turns the parser's tree into nodes.
type builder struct {
	file    string
	anchors map[string]*node // nil while the anchor's own value is being built
	tooBig  *position        // where aliases have multiplied the values beyond maxNodes
}

func (b *builder) document(f *ast.File) (*node, error) {
	root := &node{kind: kindMapping, pos: position{b.file, 1, 1}, size: 1}
	seen := false
	for _, doc := range f.Docs {
		if doc.Body == nil {
			continue
		}
		n := b.build(doc.Body)
		if b.tooBig != nil {
			return nil, &syntaxError{*b.tooBig, fmt.Sprintf("aliases expand to more than %d values", maxNodes)}
		}
		if seen {
			return nil, &syntaxError{n.pos, "a second document: a file holds one only (remove the ---)"}
		}
		seen = true
		switch n.kind {
		case kindMapping:
			root = n
		case kindBroken:
			return nil, &syntaxError{n.pos, n.text}
		default:
			return nil, &syntaxError{n.pos, "the file must be a mapping of keys such as listeners: and routes:, not " + n.describe()}
		}
	}
	return root, nil
}

func (b *builder) at(t *token.Token) position {
	if t == nil || t.Position == nil {
		return position{b.file, 1, 1}
	}
	return position{b.file, t.Position.Line, max(1, t.Position.Column)}
}

func (b *builder) broken(t *token.Token, format string, args ...any) *node {
	return &node{kind: kindBroken, pos: b.at(t), text: fmt.Sprintf(format, args...), size: 1}
}

func (b *builder) build(n ast.Node) *node {
	switch n := n.(type) {
	case nil:
		return &node{kind: kindNull, pos: position{b.file, 1, 1}, size: 1}
	case *ast.NullNode:
		return &node{kind: kindNull, pos: b.at(n.Token), size: 1}
	case *ast.StringNode:
		quoted := n.Token.Type == token.DoubleQuoteType || n.Token.Type == token.SingleQuoteType
		return &node{kind: kindScalar, pos: b.at(n.Token), text: n.Value, quoted: quoted, size: 1}
	case *ast.LiteralNode:
		return &node{kind: kindScalar, pos: b.at(n.Start), text: n.Value.Value, quoted: true, size: 1}
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		// The text as written: what it means depends on the key it stands under (1.2 may be a TLS version).
		return &node{kind: kindScalar, pos: b.at(n.GetToken()), text: n.GetToken().Value, size: 1}
	case *ast.MappingNode:
		return b.mapping(b.at(n.Start), n.Values)
	case *ast.MappingValueNode:
		return b.mapping(b.at(n.Key.GetToken()), []*ast.MappingValueNode{n})
	case *ast.SequenceNode:
		return b.list(n)
	case *ast.AnchorNode:
		return b.anchor(n)
	case *ast.AliasNode:
		return b.alias(n)
	case *ast.TagNode:
		return b.broken(n.Start, "YAML tags such as %s are not supported", clip(n.Start.Value))
	}
	return b.broken(n.GetToken(), "this kind of YAML (%s) is not supported", n.Type())
}

func (b *builder) list(n *ast.SequenceNode) *node {
	out := &node{kind: kindList, pos: b.at(n.Start), size: 1}
	for _, v := range n.Values {
		item := b.build(v)
		out.items = append(out.items, item)
		out.size += item.size
	}
	return b.bounded(out)
}

func (b *builder) anchor(n *ast.AnchorNode) *node {
	name := n.Name.GetToken().Value
	b.anchors[name] = nil
	v := b.build(n.Value)
	b.anchors[name] = v
	return v
}

func (b *builder) alias(n *ast.AliasNode) *node {
	name := n.Value.GetToken().Value
	v, known := b.anchors[name]
	switch {
	case !known && (name == "" || name[0] == '.'):
		return b.broken(n.Start, "a value that begins with * needs quotes: %q", "*"+name)
	case !known:
		return b.broken(n.Start, "unknown anchor *%s (a value that begins with * needs quotes)", clip(name))
	case v == nil:
		return b.broken(n.Start, "anchor &%s contains itself", clip(name))
	}
	return v
}

func (b *builder) mapping(at position, values []*ast.MappingValueNode) *node {
	out := &node{kind: kindMapping, pos: at, size: 1}
	if len(values) > 0 {
		out.pos = b.at(values[0].Key.GetToken())
	}
	index := map[string]int{}
	for _, mv := range values {
		if _, isMerge := mv.Key.(*ast.MergeKeyNode); isMerge {
			b.mergeKey(out, index, mv)
			continue
		}
		e := entry{key: keyText(mv.Key), pos: b.at(keyToken(mv.Key)), value: b.build(mv.Value)}
		if e.value.kind == kindNull {
			e.value.pos = e.pos // the parser puts an absent value past its end
		}
		out.size += e.value.size
		i, known := index[e.key]
		switch {
		case known && out.entries[i].merged:
			out.entries[i] = e
			continue
		case known:
			e.dupOf = &out.entries[i].pos
		default:
			index[e.key] = len(out.entries)
		}
		out.entries = append(out.entries, e)
	}
	return b.bounded(out)
}

// mergeKey adds what "<<: *anchor" or "<<: [*a, *b]" brings, below any explicit key.
func (b *builder) mergeKey(out *node, index map[string]int, mv *ast.MappingValueNode) {
	from := b.build(mv.Value)
	sources := []*node{from}
	if from.kind == kindList {
		sources = from.items
	}
	for _, src := range sources {
		if src.kind != kindMapping {
			bad := src
			if src.kind != kindBroken {
				bad = b.broken(mv.Key.GetToken(), "<< takes a mapping or a list of mappings, not %s", src.describe())
			}
			out.entries = append(out.entries, entry{key: "<<", pos: b.at(mv.Key.GetToken()), value: bad})
			continue
		}
		out.size += src.size
		for _, e := range src.entries {
			if _, known := index[e.key]; !known {
				index[e.key] = len(out.entries)
				e.merged = true
				out.entries = append(out.entries, e)
			}
		}
	}
}

// bounded notes when aliases have multiplied the values too far, and cuts them
// off, so that the sizes above cannot overflow.
func (b *builder) bounded(n *node) *node {
	if n.size <= maxNodes {
		return n
	}
	if b.tooBig == nil {
		b.tooBig = &n.pos
	}
	return &node{kind: kindNull, pos: n.pos, size: 1}
}

// keyToken returns the token of a key, also of one written "? key".
func keyToken(k ast.MapKeyNode) *token.Token {
	if mk, ok := k.(*ast.MappingKeyNode); ok && mk.Value != nil {
		return mk.Value.GetToken()
	}
	return k.GetToken()
}

func keyText(k ast.MapKeyNode) string {
	if t := keyToken(k); t != nil {
		return t.Value
	}
	return ""
}

// describe says what a node is, for error messages. Scalars are quoted unless
// they are a number or a truth value.
func (n *node) describe() string {
	switch n.kind {
	case kindNull:
		return "nothing"
	case kindList:
		return "a list"
	case kindMapping:
		return "a mapping"
	}
	return quote(n.text, n.quoted)
}

func quote(text string, quoted bool) string {
	if !quoted && isBare(text) {
		return text
	}
	return fmt.Sprintf("%q", clip(text))
}

// isBare reports whether YAML takes the unquoted text for a number or a truth value.
func isBare(text string) bool {
	switch strings.ToLower(text) {
	case "true", "false":
		return true
	}
	return isNumber(text)
}
