package replay

// readJSON takes the values of a line's JSON object that keys name. Nested objects and
// lists, true, false and null are passed over; of a key that comes twice, the first counts. It is
// lenient about values that it has no use for, and never looks at a byte twice.
func readJSON(line []byte, keys map[string]source, rec *record) bool {
	s := scanner{b: line}
	if !s.take('{') {
		return false
	}
	if s.take('}') {
		return s.end()
	}
	for {
		key, ok := s.text()
		if !ok || !s.take(':') {
			return false
		}
		value, ok := s.value()
		if !ok {
			return false
		}
		rec.set(keys[string(key)], value)
		switch {
		case s.take(','):
		case s.take('}'):
			return s.end()
		default:
			return false
		}
	}
}

// scanner reads JSON.
type scanner struct {
	b []byte
	i int
}

// space passes white space over.
func (s *scanner) space() {
	for s.i < len(s.b) && (s.b[s.i] == ' ' || s.b[s.i] == '\t') {
		s.i++
	}
}

// take passes over c, if it comes next.
func (s *scanner) take(c byte) bool {
	s.space()
	if s.i == len(s.b) || s.b[s.i] != c {
		return false
	}
	s.i++
	return true
}

// end says whether nothing is left.
func (s *scanner) end() bool {
	s.space()
	return s.i == len(s.b)
}

// text reads a string and returns what is within the quotes, escaped as it is.
func (s *scanner) text() (raw []byte, ok bool) {
	if !s.take('"') {
		return nil, false
	}
	start := s.i
	for ; s.i < len(s.b); s.i++ {
		switch s.b[s.i] {
		case '\\':
			s.i++
		case '"':
			s.i++
			return s.b[start : s.i-1], true
		}
	}
	s.i = len(s.b) // an escape may have gone past the end
	return nil, false
}

// value reads any value; what is neither text nor a number is returned as nil.
func (s *scanner) value() (raw []byte, ok bool) {
	s.space()
	if s.i == len(s.b) {
		return nil, false
	}
	switch c := s.b[s.i]; {
	case c == '"':
		return s.text()
	case c == '{' || c == '[':
		return nil, s.nested()
	}
	start := s.i
	for s.i < len(s.b) && inWord(s.b[s.i]) {
		s.i++
	}
	raw = s.b[start:s.i]
	if len(raw) > 0 && raw[0] != '-' && raw[0]-'0' > 9 {
		return nil, true // true, false, null
	}
	return raw, len(raw) > 0
}

// inWord says whether c may be part of a number, true, false or null.
func inWord(c byte) bool {
	return c-'0' < 10 || c|0x20-'a' < 26 || c == '.' || c == '-' || c == '+'
}

// nested passes over an object or a list, without recursion, as lines come from strangers.
func (s *scanner) nested() bool {
	for depth := 0; s.i < len(s.b); {
		switch s.b[s.i] {
		case '"':
			if _, ok := s.text(); !ok {
				return false
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		s.i++
		if depth == 0 {
			return true
		}
	}
	return false
}
