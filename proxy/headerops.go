package proxy

import (
	"bytes"
	"maps"
	"regexp"
	"slices"
	"strings"

	"tickgate/config"
	"tickgate/internal/h1"
)

// nameSet is a set of field names: known ones by id, others by spelling in any case.
type nameSet struct {
	known h1.FieldSet
	other [][]byte
	twins [][]byte // the spelling of known ones with a hyphen
}

func (s *nameSet) add(name string) {
	if id := h1.LookupField([]byte(name)); id != h1.Unknown {
		s.known |= h1.FieldsOf(id)
		if strings.Contains(name, "-") {
			s.twins = append(s.twins, []byte(name))
		}
		return
	}
	s.other = append(s.other, []byte(name))
}

// dropFrom marks the fields of the set that h1 has no id for, so that they are not
// passed on, and those that differ from one of the set by underscores or other signs for
// hyphens: backends that see fields as CGI variables cannot tell them apart.
func (s *nameSet) dropFrom(h *h1.Head) {
	if len(s.other) == 0 && len(s.twins) == 0 {
		return
	}
	for i := range h.Fields {
		if f := &h.Fields[i]; f.ID == h1.Unknown && s.hasTwin(h.Name(i)) {
			f.Hop = true
		}
	}
}

// dropLookalikes is dropFrom for who may send the fields of the set: only in their own spelling.
func (s *nameSet) dropLookalikes(h *h1.Head) {
	for i := range h.Fields {
		if f := &h.Fields[i]; f.ID == h1.Unknown && s.hasTwin(h.Name(i)) && !s.has(h.Name(i)) {
			f.Hop = true
		}
	}
}

// has reports whether a name that h1 does not know is in the set, in any case.
func (s *nameSet) has(name []byte) bool {
	return slices.ContainsFunc(s.other, func(other []byte) bool { return bytes.EqualFold(other, name) })
}

func (s *nameSet) hasTwin(name []byte) bool {
	for _, names := range [2][][]byte{s.other, s.twins} {
		for _, other := range names {
			if sameVariable(name, other) {
				return true
			}
		}
	}
	return false
}

// strip returns trailer lines without those of the set. A nil s strips nothing.
func (s *nameSet) strip(lines []byte) []byte {
	if s == nil || len(lines) == 0 {
		return lines
	}
	kept := lines[:0]
	for line := range bytes.Lines(lines) {
		if name, _, _ := bytes.Cut(line, colon); !s.hasTwin(name) {
			kept = append(kept, line...)
		}
	}
	return kept
}

var colon = []byte(":")

// sameVariable compares field names as CGI does: without case, and all signs alike. Most servers make "_" of "-" alone, lighttpd
// makes it of every sign (X.Real.IP).
func sameVariable(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if variableByte(a[i]) != variableByte(b[i]) {
			return false
		}
	}
	return true
}

func variableByte(c byte) byte {
	switch {
	case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		return c
	case c >= 'A' && c <= 'Z':
		return c + 'a' - 'A'
	}
	return '-'
}

// headerOps is a compiled config.HeaderOps: fields to leave out of what is passed
// on, and fields to append.
type headerOps struct {
	drop nameSet
	put  []headerPut
	host *template // a request's `set: {Host: …}`; Host is always written first
}

type headerPut struct {
	name  string
	value *template
}

func compileHeaderOps(o *config.HeaderOps, re *regexp.Regexp) (*headerOps, error) {
	if o == nil {
		return nil, nil
	}
	ops := &headerOps{}
	for _, n := range o.Remove {
		ops.drop.add(n)
	}
	for _, m := range []map[string]string{o.Set, o.Add} {
		for _, name := range slices.Sorted(maps.Keys(m)) {
			t, err := compileTemplate(m[name], re)
			if err != nil {
				return nil, err
			}
			switch {
			case h1.LookupField([]byte(name)) == h1.Host:
				ops.host = t
			case m[name] != "":
				ops.put = append(ops.put, headerPut{name, t})
			}
		}
	}
	for n := range o.Set {
		ops.drop.add(n)
	}
	return ops, nil
}

// append writes the fields to put.
func (o *headerOps) append(dst []byte, x *Exchange) []byte {
	for i := range o.put {
		start := len(dst)
		dst = append(append(dst, o.put[i].name...), ": "...)
		value := len(dst)
		dst = o.put[i].value.append(dst, x)
		if len(dst) == value {
			dst = dst[:start] // an empty value is no field
			continue
		}
		dst = append(dst, "\r\n"...)
	}
	return dst
}

// drops reports whether the route removes or replaces a field, so that the gateway
// does not write its own. A nil o drops nothing.
func (o *headerOps) drops(id h1.FieldID, name string) bool {
	if o == nil {
		return false
	}
	if id != h1.Unknown {
		return o.drop.known.Has(id)
	}
	return slices.ContainsFunc(o.drop.other, func(other []byte) bool { return strings.EqualFold(string(other), name) })
}
