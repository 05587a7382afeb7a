package scenario

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tickgate/internal/testkit"
	"tickgate/loadtest/httpload"
	"tickgate/loadtest/pace"
)

// The examples of the documentation are scenarios.
func TestExamples(t *testing.T) {
	root, err := testkit.Root()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, "docs/examples/load/*.yaml"))
	if err != nil || len(files) < 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		s, report := Load(file)
		if err := report.Err(); err != nil {
			t.Error(err)
		}
		if len(s.Options().Mix) == 0 {
			t.Errorf("%s: no mix", file)
		}
	}
}

func TestOptions(t *testing.T) {
	s, report := Parse("a.yaml", []byte(`
url: http://a/
seed: 3
poisson: true
connections: 2
duration: 4s
warmup: 1s
per_connection: 5
connect: {sources: 6, insecure: true, resume_percent: 50}
plan: [{from: 10, to: 20, for: 1s}, {rate: 0, for: 2s}, {rate: 7, for: 1s}]
mix:
  - {name: b, weight: 3, method: POST, path: /b, headers: ["X-A: 1:2 "], body: hi, think: 1s, expect: 201}
  - {path: /c, body_size: 1KiB}
`))
	if err := report.Err(); err != nil {
		t.Fatal(err)
	}
	o := s.Options()
	wantPhases := []pace.Phase{{From: 10, To: 20, For: time.Second}, {For: 2 * time.Second}, {From: 7, To: 7, For: time.Second}}
	if o.Plan == nil || !o.Plan.Poisson || o.Plan.Seed != 3 || len(o.Plan.Phases) != 3 {
		t.Fatalf("%+v", o.Plan)
	}
	for i, want := range wantPhases {
		if o.Plan.Phases[i] != want {
			t.Errorf("phase %d: %+v, want %+v", i, o.Plan.Phases[i], want)
		}
	}
	if o.Conns != 2 || o.Duration != 4*time.Second || o.Warmup != time.Second || o.PerConn != 5 || o.ResumePercent != 50 || o.Seed != 3 ||
		o.Timeout != 10*time.Second || o.Target.Sources != 6 || !o.Target.Insecure || o.Target.Timeout != 10*time.Second {
		t.Errorf("%+v", o)
	}
	b, c := o.Mix[0], o.Mix[1]
	if b.Name != "b" || b.Weight != 3 || b.Method != "POST" || b.Path != "/b" || string(b.Body) != "hi" || b.Think != time.Second || b.Expect != 201 ||
		len(b.Header) != 1 || b.Header[0] != (httpload.Field{Name: "X-A", Value: "1:2"}) {
		t.Errorf("%+v", b)
	}
	if c.Weight != 1 || c.Method != "GET" || len(c.Body) != 1024 {
		t.Errorf("%+v", c)
	}
	if empty, report := Parse("b.yaml", []byte("{}")); report.Err() != nil || empty.Options().Plan != nil || empty.Options().Mix != nil || empty.Options().Conns != 64 {
		t.Errorf("%+v, %v", empty, report.Err())
	}
}

func TestMistakes(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		_, report := Parse("a.yaml", []byte(text))
		var b strings.Builder
		if err := report.WriteText(&b, false); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q: %s, want %s", text, b.String(), want)
		}
	}
	f("conections: 1", `a.yaml:1:1: error: conections: unknown key (did you mean "connections"?)`)
	f("connections: 0", "a.yaml:1:14: error: connections: got 0, want 1 to 1000000")
	f("mix: [{path: /, headers: [no]}]", `a.yaml:1:27: error: mix[0].headers[0]: got no, want "Name: value"`)
	f("mix: [{body: a, body_size: 1KiB}]", "mix[0].body_size: got both a body and a body_size, want one of them")
	f("mix: [{expect: 100}]", "mix[0].expect: got 100, want 0, or 200 to 599")
	f("plan: [{rate: 5}]", "plan[0].for: is missing")
	f("plan: [{rate: 5, to: 6, for: 1s}]", "plan[0].rate: got a rate beside from and to, want either")
	f("plan: [{rate: 0, for: 1s}]", "plan: got no requests, want a rate above 0 in one phase at least")
}
