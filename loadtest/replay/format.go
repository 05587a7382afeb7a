package replay

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ErrFormat is wrapped by every error of Compile.
var ErrFormat = errors.New("replay: bad format")

// The predefined formats, as nginx and Apache define them.
const (
	combined = `$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"`
	common   = `$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent`
)

// field is what a value in a line means.
type field uint8

const (
	fieldNone     field = iota
	fieldTime           // when it was logged
	fieldRequest        // request line
	fieldMethod         //
	fieldURI            // target, perhaps without its query
	fieldQuery          // without the question mark
	fieldHost           // with the port, if the client sent one
	fieldStatus         //
	fieldDuration       // seconds
	fieldLength         // bytes of the request, head and body
	fieldBody           // bytes of its body
	fieldReferer        //
	fieldAgent          //

	fields int = iota
)

// fieldNames are what -fields calls them.
var fieldNames = map[string]field{
	"time": fieldTime, "request": fieldRequest, "method": fieldMethod, "uri": fieldURI, "query": fieldQuery, "host": fieldHost, "status": fieldStatus,
	"duration": fieldDuration, "length": fieldLength, "body": fieldBody, "referer": fieldReferer, "agent": fieldAgent,
}

// source says what a variable or key holds. If a line has several for one field, the
// lowest rank that is not empty counts.
type source struct {
	field field
	rank  uint8
}

// sources are the variables of nginx and tickgate and the usual keys of JSON logs.
var sources = map[string]source{
	"msec": {fieldTime, 0}, "time": {fieldTime, 1}, "ts": {fieldTime, 1}, "timestamp": {fieldTime, 1}, "@timestamp": {fieldTime, 1},
	"time_iso8601": {fieldTime, 2}, "time_local": {fieldTime, 3},
	"request":        {fieldRequest, 0},
	"request_method": {fieldMethod, 0}, "method": {fieldMethod, 1}, "verb": {fieldMethod, 2},
	"request_uri": {fieldURI, 0}, "uri": {fieldURI, 1}, "target": {fieldURI, 2}, "url": {fieldURI, 3}, "path": {fieldURI, 4},
	"query_string": {fieldQuery, 0}, "args": {fieldQuery, 1}, "query": {fieldQuery, 2},
	"http_host": {fieldHost, 0}, "host": {fieldHost, 1}, "vhost": {fieldHost, 2},
	"status": {fieldStatus, 0}, "status_code": {fieldStatus, 1},
	"request_time": {fieldDuration, 0}, "duration": {fieldDuration, 1},
	"request_length": {fieldLength, 0},
	"bytes_received": {fieldBody, 0}, "content_length": {fieldBody, 1}, "http_content_length": {fieldBody, 2},
	"http_referer": {fieldReferer, 0}, "referer": {fieldReferer, 1}, "referrer": {fieldReferer, 2},
	"http_user_agent": {fieldAgent, 0}, "user_agent": {fieldAgent, 1}, "agent": {fieldAgent, 2},
}

// Format reads lines. It does not change, and may be shared.
type Format struct {
	keys     map[string]source // of JSON
	template *template         // nil if every line is JSON
	auto     bool              // a line that begins with "{" is JSON all the same
}

// Compile reads a format: "auto" (each line is JSON or "combined"), "combined", "common",
// "json", a template of nginx ($name) or tickgate (${name}), or a whole log_format statement as
// it stands in nginx.conf. mapping says which variable or key holds what, as in
// "time=ts,uri=path", where the usual names do not.
func Compile(format, mapping string) (*Format, error) {
	keys, err := mapped(mapping)
	if err != nil {
		return nil, err
	}
	f := &Format{keys: keys}
	switch format {
	case "json":
		return f, nil
	case "", "auto":
		format, f.auto = combined, true
	case "combined":
		format = combined
	case "common":
		format = common
	default:
		if format, err = unquoteStatement(format); err != nil {
			return nil, err
		}
	}
	f.template, err = newTemplate(format, keys)
	return f, err
}

// mapped returns the sources, changed as the mapping says.
func mapped(mapping string) (map[string]source, error) {
	if mapping == "" {
		return sources, nil
	}
	keys := maps.Clone(sources)
	for _, pair := range strings.Split(mapping, ",") {
		name, key, _ := strings.Cut(strings.TrimSpace(pair), "=")
		id, ok := fieldNames[name]
		if !ok || key == "" {
			return nil, fmt.Errorf("%w: field %q (want NAME=KEY, NAME one of %s)", ErrFormat, pair, strings.Join(slices.Sorted(maps.Keys(fieldNames)), ", "))
		}
		maps.DeleteFunc(keys, func(_ string, s source) bool { return s.field == id && sources[key].field != id })
		keys[key] = source{id, 0}
	}
	return keys, nil
}

// record is what one line holds: slices of it, still escaped.
type record struct {
	values [fields][]byte
	ranks  [fields]uint8
}

// set keeps a value unless it is empty, which nginx writes as "-", or a better one is there.
func (rec *record) set(s source, value []byte) {
	if s.field == fieldNone || len(value) == 0 || len(value) == 1 && value[0] == '-' {
		return
	}
	if rec.values[s.field] == nil || s.rank < rec.ranks[s.field] {
		rec.values[s.field], rec.ranks[s.field] = value, s.rank
	}
}

// read fills rec with what a line holds.
func (f *Format) read(line []byte, rec *record) Reason {
	*rec = record{}
	ok := false
	if f.template == nil || f.auto && bytes.HasPrefix(line, []byte("{")) {
		ok = readJSON(line, f.keys, rec)
	} else {
		ok = f.template.read(line, rec)
	}
	if !ok {
		return BadSyntax
	}
	return OK
}
