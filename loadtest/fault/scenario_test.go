package fault

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sound is a scenario that bad ones are made of.
const sound = `
name: x
backends: {a: {}, e: {kind: echo}, s: {tls: true}}
proxies:
  a: {backend: a}
  e: {backend: e}
  s: {backend: s}
  t: {target: "127.0.0.1:1"}
dns: {names: {a.test: {addresses: [127.0.0.1]}}}
gateway: {config: "x"}
load: {rate: 10, tunnels: {}}
steps:
  - name: one
    for: 1s
    settle: 1s
    faults: {a: {hole: silent, answer: {status: 503}}, s: {clock: -48h}}
    dns: {a.test: {mode: nxdomain}}
    expect: {recover_within: 1s, kinds: [reset]}
    metrics: [{name: 'a_total{b="c",d="e"}'}]
`

func TestParse(t *testing.T) {
	s, report := Parse("a.yaml", sound)
	if err := report.Err(); err != nil {
		t.Fatal(err, report.Problems)
	}
	step := s.Steps[0]
	if f := step.Faults["a"]; f.Hole != HoleSilent || f.HalfOpen != HalfOpenNone || f.Answer.Percent != 100 || f.ToClient.Corrupt.Part != PartAny {
		t.Errorf("%+v", f)
	}
	if step.Faults["s"].Clock != -48*time.Hour || step.Expect.MaxErrorPercent != 100 || step.Metrics[0].Op != ">=" {
		t.Errorf("%+v", step)
	}
	if s.Duration() != 2*time.Second || !s.follows("a") || s.follows("s") || s.Load.Tunnels.Count != 10 {
		t.Errorf("%+v", s)
	}
}

func TestParseFails(t *testing.T) {
	f := func(old, replacement, want string) {
		t.Helper()
		if !strings.Contains(sound, old) {
			t.Fatalf("the scenario has no %q", old)
		}
		_, report := Parse("a.yaml", strings.Replace(sound, old, replacement, 1))
		var b strings.Builder
		if err := report.WriteText(&b, false); err != nil {
			t.Fatal(err)
		}
		if report.Err() == nil || !strings.Contains(b.String(), want) {
			t.Errorf("%q: %s want %q", replacement, b.String(), want)
		}
	}
	f("name: x", "nam: x", `a.yaml:2:1: error: nam: unknown key (did you mean "name"?)`)
	f("hole: silent", "hole: deep", "one of none, silent, refuse, syn")
	f("a: {backend: a}", "a: {backend: z}", "proxies.a.backend: got z, want a name in backends")
	f("a: {backend: a}", "a: {}", "either backend or target")
	f(`"127.0.0.1:1"`, "nowhere", "proxies.t.target: got nowhere, want host:port")
	f(`{config: "x"}`, "{}", "one of config, config_file and url")
	f(`{config: "x"}`, `{config: "x", url: "http://a"}`, "one of config, config_file and url")
	f(`{config: "x"}`, `{config: "x", admin: "http://a"}`, "gateway.admin")
	f(`{config: "x"}`, `{url: "http://a"}`, "want gateway.admin")
	f("load: {rate: 10, tunnels: {}}", "load: {rate: 0}", "a rate or tunnels")
	f("load: {rate: 10, tunnels: {}}", "load: {rate: 0, tunnels: {}}", "steps[0].expect: want a load of that kind")
	f("{a: {hole: silent, answer", "{z: {hole: silent, answer", "a name in proxies")
	f("answer: {status: 503}", "answer: {status: 100}", "answer.status is 100")
	f("s: {clock: -48h}", "s: {answer: {status: 503}}", "a backend without TLS")
	f("s: {clock: -48h}", "t: {clock: -48h}", "a proxy to a built-in http backend")
	f("dns: {names", "x-dns: {names", "a dns server in the scenario")
	f("kinds: [reset]", "kinds: [rest]", "one of wrong_status")
	f(`{b="c",d="e"}`, `{b=c}`, "metrics[0].name")
	f("    for: 1s\n", "    for: 1s\n  - {name: two, at: 500ms, for: 1s}\n  - name: three\n    for: 1s\n", "steps[1].at: got 500ms, want at least 1s")
}

func TestExamplesAreSound(t *testing.T) {
	files, err := filepath.Glob("../../docs/examples/faults/*.yaml")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, file := range files {
		s, report := Load(file)
		for _, p := range report.Problems {
			t.Errorf("%s", p)
		}
		if d := s.Duration(); d > 2*time.Minute {
			t.Errorf("%s takes %v", file, d)
		}
	}
}

func TestSeries(t *testing.T) {
	const exposition = `# TYPE a counter
a 1
a{b="x"} 2
a{b="x",c="y z"} 4
a{b="w"} 8
a_total{b="x"} 16
`
	f := func(name string, want float64) {
		t.Helper()
		s, err := parseSeries(name)
		if got := s.sum(exposition); err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", name, got, err, want)
		}
	}
	f("a", 15)
	f(`a{b="x"}`, 6)
	f(`a{c="y z",b="x"}`, 4)
	f("a_total", 16)
	f("nothing", 0)
}
