package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"tickgate/internal/unit"
)

// Redacted returns the effective configuration, defaults included, under its YAML
// keys in the order of the schema: for encoding/json and goccy/go-yaml. Durations
// and sizes are text, as they are written in a file. Secrets are "***", and so are
// the values of header fields that carry credentials.
func (c *Config) Redacted() any { return dump(reflect.ValueOf(c).Elem()) }

// RedactedYAML is Redacted as a YAML file.
func (c *Config) RedactedYAML() ([]byte, error) { return yaml.Marshal(c.Redacted()) }

// object is a mapping that keeps its order.
type object []member

type member struct {
	key   string
	value any
}

// MarshalJSON writes the members in order.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := enc.Encode(m.key); err != nil {
			return nil, err
		}
		b.WriteByte(':')
		if err := enc.Encode(m.value); err != nil {
			return nil, fmt.Errorf("%s: %w", m.key, err)
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// MarshalYAML gives the YAML encoder its own ordered mapping.
func (o object) MarshalYAML() (any, error) {
	out := make(yaml.MapSlice, len(o))
	for i, m := range o {
		out[i] = yaml.MapItem{Key: m.key, Value: m.value}
	}
	return out, nil
}

// dump turns a value of the schema into objects, lists and scalars.
func dump(v reflect.Value) any {
	switch x := v.Interface().(type) {
	case time.Duration:
		return durationText(x)
	case unit.Size:
		return x.String()
	case HeaderOps:
		return object{{"remove", dump(reflect.ValueOf(x.Remove))}, {"set", dumpFields(x.Set)}, {"add", dumpFields(x.Add)}}
	case HeaderMatch:
		if isCredential(x.Name) {
			x.Value, x.Regex = masked(x.Value), masked(x.Regex)
		}
		return dumpStruct(reflect.ValueOf(x))
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return dump(v.Elem())
	case reflect.Struct:
		return dumpStruct(v)
	case reflect.Slice:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = dump(v.Index(i))
		}
		return out
	case reflect.Map:
		out := make(object, 0, v.Len())
		for _, k := range v.MapKeys() {
			out = append(out, member{k.String(), dump(v.MapIndex(k))})
		}
		slices.SortFunc(out, func(a, b member) int { return strings.Compare(a.key, b.key) })
		return out
	}
	return v.Interface()
}

// dumpStruct leaves out what is absent: a nil pointer, such as a listener's TLS.
func dumpStruct(v reflect.Value) object {
	var out object
	for _, f := range fieldsOf(v.Type()) {
		fv := v.Field(f.index)
		switch {
		case fv.Kind() == reflect.Pointer && fv.IsNil():
		case f.secret:
			out = append(out, member{f.key, masked(fv.String())})
		default:
			out = append(out, member{f.key, dump(fv)})
		}
	}
	return out
}

func dumpFields(fields map[string]string) object {
	out := object{}
	for name, value := range fields {
		if isCredential(name) {
			value = masked(value)
		}
		out = append(out, member{name, value})
	}
	slices.SortFunc(out, func(a, b member) int { return strings.Compare(a.key, b.key) })
	return out
}

// masked hides a secret, but not that there is none.
func masked(s string) string {
	if s == "" {
		return ""
	}
	return secretShown
}

// isCredential reports whether a header field is likely to hold a credential.
func isCredential(name string) bool {
	name = strings.ToLower(name)
	for _, part := range []string{"authorization", "cookie", "token", "secret", "password", "api-key", "apikey", "credential"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}
