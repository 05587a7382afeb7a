package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"tickgate/internal/unit"
)

func TestDecoded(t *testing.T) {
	cfg, report := testLoader(map[string]string{"PORT": "8080"}).load("testdata/valid-yaml-features.yaml")
	if err := report.Err(); err != nil {
		t.Fatal(err)
	}
	a, b := cfg.Upstreams["a"], cfg.Upstreams["b"]
	f := func(what string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %#v, want %#v", what, got, want)
		}
	}
	f("environment in text", cfg.Listeners[0].Listen, ":8080")
	f("environment, default, in quotes, for a number", cfg.Workers.Max, 77)
	f("default of a section that is there", cfg.Workers.ParkAfter, 2*time.Second)
	f("default of a section that is not", cfg.Limits.MaxHead, unit.Size(16<<10))
	f("default of a list", b.Retry.On, []string{"connect", "502", "503"})
	f("list without items", cfg.Forwarding.TrustedProxies, []string(nil))
	f("absent pointer", cfg.Listeners[0].TLS == nil && a.TLS == nil, true)
	f("present pointer gets defaults", a.HealthCheck.Interval, 5*time.Second)
	f("defaults of a section in an item of a list", cfg.Routes[0].Tunnel, defaultOf[Tunnel]())
	f("one of them", cfg.Routes[0].Tunnel.PingInterval, 30*time.Second)
	f("merge key, first of a list wins", a.Timeouts.ResponseHeader, 5*time.Second)
	f("merge key, second of the list", a.Timeouts.Write, 7*time.Second)
	f("merge key, own key wins", a.Timeouts.Read, 6*time.Second)
	f("merge key, default of the rest", a.Timeouts.Dial, 3*time.Second)
	f("merged mapping", b.Servers, []Server{{Address: "a.internal:80", Weight: 2}})
	f("own key beside a merge", b.Balance+" "+b.HashKey, "hash header:X-User")
	f("numbers and switches as text", cfg.Routes[0].ResponseHeaders.Set, map[string]string{"X-Number": "5", "X-Bool": "true", "X-Float": "1.50"})
	f("block scalar and escapes", cfg.Routes[2].StaticResponse.Body, "line one\n${host} costs $$5 at $${SHOP}\n")
	f("host in lower case", cfg.Routes[0].Host, "api.example.com")
	f("route names", []string{cfg.Routes[0].Name, cfg.Routes[1].Name, cfg.Routes[2].Name}, []string{"api.example.com", "*", "/text"})
}

func TestRouteNamesAreUnique(t *testing.T) {
	cfg, report := Parse("gate.yaml", []byte(`
listeners: [{listen: "127.0.0.1:8080"}]
routes:
- {path: /a, methods: [GET], static_response: {}}
- {path: /a, methods: [PUT], static_response: {}}
- {path: /b, name: "/a#2", static_response: {}}
- {path_exact: /a, host: h, static_response: {}}
- {path_regex: '^/a"\d', static_response: {}}
`))
	if err := report.Err(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range cfg.Routes {
		got = append(got, r.Name)
	}
	if want := []string{"/a", "/a#3", "/a#2", "h=/a", "~^/a__d"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestIncludeOrder(t *testing.T) {
	cfg, report := testLoader(nil).load("testdata/include-valid.yaml")
	if err := report.Err(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range cfg.Routes {
		got = append(got, r.Path)
	}
	if want := []string{"/first", "/a", "/b"}; !reflect.DeepEqual(got, want) {
		t.Errorf("routes: got %v, want %v", got, want)
	}
	if len(cfg.Upstreams) != 2 || cfg.Limits.MaxHeaders != 50 || cfg.Limits.MaxBody != 1<<20 {
		t.Errorf("got %d upstreams and limits %+v, want 2, max_headers of one file and max_body of another", len(cfg.Upstreams), cfg.Limits)
	}
}

func TestFileNamesAreBesideTheirFile(t *testing.T) {
	cfg, report := testLoader(nil).parse("etc/gate.yaml", []byte(`
listeners: [{listen: "127.0.0.1:8080"}]
routes: [{static_response: {}}]
log: {access: {output: logs/a.log}, error: {output: /var/log/e.log}}
`))
	if err := report.Err(); err != nil {
		t.Fatal(err)
	}
	if got, want := cfg.Log.Access.Output, filepath.Join("etc", "logs", "a.log"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := cfg.Log.Error.Output, "/var/log/e.log"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCloseCodes(t *testing.T) {
	f := func(want bool, codes ...int) {
		t.Helper()
		for _, code := range codes {
			if got := maySend(code); got != want {
				t.Errorf("%d: got %t, want %t", code, got, want)
			}
		}
	}
	f(true, 1000, 1001, 1008, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)
	// Not for the wire, or a word about what the peer did.
	f(false, 0, 999, 1002, 1003, 1004, 1005, 1006, 1007, 1009, 1010, 1015, 1016, 2999, 5000)
}

func TestCannotRead(t *testing.T) {
	name := filepath.Join(t.TempDir(), "none.yaml")
	cfg, report := Load(name)
	if cfg != nil || !errors.Is(report.ReadError, fs.ErrNotExist) || !errors.Is(report.Err(), fs.ErrNotExist) {
		t.Errorf("got Config %v, ReadError %v, Err %v; want a not-exist error in both", cfg, report.ReadError, report.Err())
	}
	if want := name + ": cannot read: no such file or directory"; report.Err().Error() != want {
		t.Errorf("got %q, want %q", report.Err(), want)
	}
	_, report = Load(t.TempDir())
	if report.ReadError == nil {
		t.Error("a directory was read as a file")
	}
}

// TestTooMuch holds inputs that would exhaust a parser without bounds.
func TestTooMuch(t *testing.T) {
	f := func(name, src, want string) {
		t.Helper()
		_, report := Parse("big.yaml", []byte(src))
		if err := report.Err(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %.300v, want an error with %q", name, err, want)
		}
	}
	const n = 200_000
	f("lists", "a: "+strings.Repeat("[", n), "nested deeper than 100 levels")
	f("mappings", "a: "+strings.Repeat("{a: ", n), "nested deeper than 100 levels")
	f("entries on a line", strings.Repeat("- ", n), "nested deeper than 100 levels")
	f("keys on a line", strings.Repeat("? ", n), "nested deeper than 100 levels")
	f("bytes", strings.Repeat("#", maxFileBytes+1), "file is too large")
	var bomb strings.Builder
	bomb.WriteString("x-0: &x0 {a: 1}\n")
	for i := range 9 {
		ref := "*x" + string(rune('0'+i))
		bomb.WriteString("x-" + string(rune('1'+i)) + ": &x" + string(rune('1'+i)) + " [" + strings.TrimSuffix(strings.Repeat(ref+", ", 10), ", ") + "]\n")
	}
	f("aliases", bomb.String()+"routes: *x9\n", "aliases expand to more than")
}

func TestReport(t *testing.T) {
	r := &Report{Problems: []Problem{
		{Severity: Warning, File: "b.yaml", Line: 1, Column: 1, Path: "x", Message: "odd"},
		{File: "a.yaml", Line: 12, Column: 9, Path: "upstreams.be.balance", Seen: `"rr"`, Want: "one of a, b"},
		{File: "a.yaml", Line: 2, Column: 9, Message: "broken", Want: "better"},
		{File: "a.yaml", Line: 2, Column: 9, Message: "broken", Want: "better"},
	}}
	r.files = []string{"a.yaml", "b.yaml"}
	r.sort()
	f := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s:\ngot  %q\nwant %q", what, got, want)
		}
	}
	f("Err", r.Err().Error(), "a.yaml:2:9: broken: want better\na.yaml:12:9: upstreams.be.balance: got \"rr\", want one of a, b")
	f("String of a warning", r.Warnings()[0].String(), "b.yaml:1:1: warning: x: odd")
	if !errors.Is(r.Err(), ErrInvalid) {
		t.Error("Err does not wrap ErrInvalid")
	}
	var plain, color bytes.Buffer
	asJSON, err := json.Marshal(r.Summary())
	if err := errors.Join(err, r.WriteText(&plain, false), r.WriteText(&color, true)); err != nil {
		t.Fatal(err)
	}
	f("text", plain.String(), "a.yaml:2:9: error: broken: want better\na.yaml:12:9: error: upstreams.be.balance: got \"rr\", want one of a, b\n"+
		"b.yaml:1:1: warning: x: odd\nconfiguration is invalid: 2 errors, 1 warning\n")
	f("first line in colour", strings.SplitAfter(color.String(), "\n")[0], "\x1b[1ma.yaml:2:9: \x1b[0m\x1b[31merror: \x1b[0mbroken: want better\n")
	var back struct {
		Valid            bool
		Errors, Warnings int
		Problems         []Problem
	}
	if err := json.Unmarshal(asJSON, &back); err != nil {
		t.Fatal(err)
	}
	if back.Valid || back.Errors != 2 || back.Warnings != 1 || !reflect.DeepEqual(back.Problems, r.Problems) {
		t.Errorf("JSON does not read back: %s", asJSON)
	}
	empty := &Report{}
	if asJSON, err = json.Marshal(empty.Summary()); err != nil || empty.Err() != nil {
		t.Fatal(err, empty.Err())
	}
	f("empty JSON", string(asJSON), `{"valid":true,"errors":0,"warnings":0,"problems":[]}`)
}

func TestRedacted(t *testing.T) {
	cfg, report := Parse("gate.yaml", []byte(`
admin: {token: hunter2}
listeners: [{listen: "127.0.0.1:8080"}]
limits: {max_body: 10MB}
upstreams: {be: {servers: [{address: "127.0.0.1:9000"}], timeouts: {request: 90s}}}
routes:
- upstream: be
  headers: [{name: X-Api-Key, value: hunter2}, {name: X-Plain, value: shown}]
  request_headers: {set: {Authorization: Bearer hunter2, X-B: "<b>", X-A: a}, add: {Cookie: hunter2}}
`))
	if err := report.Err(); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(cfg.Redacted())
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := cfg.RedactedYAML()
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{string(asJSON), string(asYAML)} {
		if strings.Contains(out, "hunter2") {
			t.Errorf("a secret is shown: %s", out)
		}
	}
	var top, fromYAML struct {
		Admin     struct{ Listen, Token string }
		Limits    map[string]any
		Upstreams map[string]struct{ Timeouts map[string]any }
		Routes    []struct {
			Headers        []map[string]any
			RequestHeaders struct{ Set, Add map[string]string } `json:"request_headers" yaml:"request_headers"`
		}
	}
	if err := errors.Join(json.Unmarshal(asJSON, &top), yaml.Unmarshal(asYAML, &fromYAML)); err != nil {
		t.Fatal(err)
	}
	f := func(what string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	f("secret", top.Admin.Token, "***")
	f("size", top.Limits["max_body"], "10000000B")
	f("duration", top.Upstreams["be"].Timeouts["request"], "1m30s")
	f("default", top.Upstreams["be"].Timeouts["dial"], "3s")
	f("credentials", top.Routes[0].RequestHeaders.Set, map[string]string{"Authorization": "***", "X-A": "a", "X-B": "<b>"})
	f("credentials added", top.Routes[0].RequestHeaders.Add, map[string]string{"Cookie": "***"})
	f("credentials compared", top.Routes[0].Headers[0]["value"], "***")
	f("other fields compared", top.Routes[0].Headers[1]["value"], "shown")
	f("YAML and JSON say the same", fromYAML.Routes[0].RequestHeaders, top.Routes[0].RequestHeaders)
	if a, b := bytes.Index(asJSON, []byte(`"admin"`)), bytes.Index(asJSON, []byte(`"resolver"`)); a < 0 || b < a {
		t.Errorf("keys are not in the order of the schema: %s", asJSON)
	}
}

// TestRedactedLoadsAgain shows that the dump is a configuration itself, and the
// same one.
func TestRedactedLoadsAgain(t *testing.T) {
	for _, name := range []string{"../docs/examples/routing.yaml", "testdata/valid-tunnels.yaml"} {
		first, report := testLoader(nil).load(name)
		if err := report.Err(); err != nil {
			t.Fatal(err)
		}
		dump, err := first.RedactedYAML()
		if err != nil {
			t.Fatal(err)
		}
		second, report := testLoader(nil).parse("dump.yaml", dump)
		if err := report.Err(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, dump)
		}
		again, err := second.RedactedYAML()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(dump, again) {
			t.Errorf("%s: the dump of the dump differs:\n%s\nfrom\n%s", name, again, dump)
		}
	}
}

// TestSchema checks the tags of every struct: keys are there and unique, defaults
// parse and are within their own bounds.
func TestSchema(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(typ reflect.Type)
	walk = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || seen[typ] {
			return
		}
		seen[typ] = true
		keys := map[string]bool{}
		for _, f := range fieldsOf(typ) {
			ft := typ.Field(f.index).Type
			where := typ.String() + "." + typ.Field(f.index).Name
			if f.key == "" || keys[f.key] {
				t.Errorf("%s: yaml key %q is empty or taken", where, f.key)
			}
			keys[f.key] = true
			checkTags(t, where, f, ft)
			walk(ft)
		}
	}
	walk(reflect.TypeFor[Config]())
	if len(seen) < 20 {
		t.Errorf("walked %d structs only", len(seen))
	}
}

func checkTags(t *testing.T, where string, f field, ft reflect.Type) {
	t.Helper()
	values := []string{f.def}
	if ft.Kind() == reflect.Slice {
		values, ft = strings.Split(f.def, ","), ft.Elem()
	}
	if !isScalar(ft) {
		return
	}
	for _, limit := range []string{f.bounds.min, f.bounds.max} {
		if _, err := parseScalar(limit, ft); limit != "" && err != nil {
			t.Errorf("%s: bound %q: %v", where, limit, err)
		}
	}
	for _, def := range values {
		if def == "" {
			continue
		}
		v, err := parseScalar(def, ft)
		if err != nil {
			t.Errorf("%s: default %q: %v", where, def, err)
			continue
		}
		if want := f.bounds.check(v, def); want != "" {
			t.Errorf("%s: default %q is not %s", where, def, want)
		}
	}
}
