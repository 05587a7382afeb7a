package config

import (
	"strings"
	"testing"
	"time"
)

// other is a file of another kind.
type other struct {
	Name  string        `yaml:"name" required:"true"`
	Every time.Duration `yaml:"every" default:"5s" min:"1ms"`
	Steps []struct {
		Count int `yaml:"count" default:"1"`
	} `yaml:"steps"`
}

func TestDecodeOther(t *testing.T) {
	var o other
	r := Decode("a.yaml", []byte("name: x\nsteps: [{count: 2}, {}]\n"), &o, nil)
	if err := r.Err(); err != nil || o.Name != "x" || o.Every != 5*time.Second || len(o.Steps) != 2 || o.Steps[1].Count != 1 {
		t.Errorf("%v, %+v", err, o)
	}
}

func TestDecodeOtherErrors(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		var o other
		r := Decode("a.yaml", []byte(text), &o, func(wrong func(string, string, string)) {
			if len(o.Steps) == 0 {
				wrong("steps", "", "at least one step")
			}
			for i := range o.Steps {
				if o.Steps[i].Count > 9 {
					wrong("steps[0].count", "10", "at most 9")
				}
			}
		})
		var b strings.Builder
		if err := r.WriteText(&b, false); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q: %s, want %s", text, b.String(), want)
		}
	}
	f("nam: x\n", `a.yaml:1:1: error: nam: unknown key (did you mean "name"?)`)
	f("name: x\n", "a.yaml:1:1: error: steps: want at least one step")
	f("name: x\nsteps:\n  - count: 10\n", "a.yaml:3:12: error: steps[0].count: got 10, want at most 9")
	f("name: [\n", "a.yaml:")
	f("name: x\nevery: 5\nsteps: [{}]\n", "every")
	if r := DecodeFile("/nonexistent.yaml", &other{}, nil); r.ReadError == nil {
		t.Error("a missing file is no error")
	}
}
