package health

import (
	"strings"
	"testing"
)

func TestParseStatuses(t *testing.T) {
	f := func(text string, has, hasNot []int) {
		t.Helper()
		set, err := ParseStatuses(text)
		if err != nil {
			t.Errorf("ParseStatuses(%q): %s", text, err)
			return
		}
		for _, st := range has {
			if !set.Has(st) {
				t.Errorf("%q has not %d", text, st)
			}
		}
		for _, st := range hasNot {
			if set.Has(st) {
				t.Errorf("%q has %d", text, st)
			}
		}
	}
	f("200", []int{200}, []int{199, 201, 0, -1, 1000, 1 << 30})
	f("200-299,304", []int{200, 250, 299, 304}, []int{199, 300, 303, 305})
	f(" 200 - 204 , 503 ", []int{200, 204, 503}, []int{205, 502})
	f("100-599", []int{100, 101, 599}, []int{99, 600})
	f("404-404", []int{404}, []int{403, 405})
}

func TestParseStatusesFails(t *testing.T) {
	f := func(text string, bad ...string) {
		t.Helper()
		_, err := ParseStatuses(text)
		if err == nil {
			t.Errorf("ParseStatuses(%q) succeeds", text)
			return
		}
		for _, part := range bad {
			if !strings.Contains(err.Error(), `"`+part+`"`) {
				t.Errorf("ParseStatuses(%q): error does not show %q: %s", text, part, err)
			}
		}
	}
	f("", "")
	f("200,", "")
	f("99", "99")
	f("600", "600")
	f("0200", "0200")
	f("+20", "+20")
	f("299-200", "299-200")
	f("200-", "200-")
	f("-299", "-299")
	f("200-250-299", "200-250-299")
	f("abc,200,2xx", "abc", "2xx")
}

func TestValidate(t *testing.T) {
	f := func(o Options, want ...string) {
		t.Helper()
		err := o.Validate()
		if len(want) == 0 {
			if err != nil {
				t.Errorf("%+v: %s", o, err)
			}
			return
		}
		for _, part := range want {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%+v: error %v, want %q in it", o, err, part)
			}
		}
	}
	f(Options{})
	f(Options{Path: "/healthz?full=1", Status: "200", BodyRegex: "^ok$", Host: "be.example:80"})
	f(Options{Method: "OPTIONS", Path: "*"})
	f(Options{Type: "tcp", Status: "2xx", BodyRegex: "(", Path: "x", Host: " "}) // looks at none of them
	f(Options{Status: "2xx"}, "status: ", `"2xx"`)
	f(Options{BodyRegex: "("}, "body_regex: ")
	f(Options{Path: "healthz"}, "path: ", "does not begin with /")
	f(Options{Path: "/a b"}, "path: ", "blank or a control character")
	f(Options{Path: "/a\r\nX: y"}, "path: ")
	f(Options{Host: "a\r\nX: y"}, "host: ")
	f(Options{Method: "HEAD", BodyContains: "ok"}, "method: HEAD")
	f(Options{Status: "x", BodyRegex: "(", Path: "x", Host: " "}, "status", "body_regex", "path", "host")
}

func TestInitiallyUp(t *testing.T) {
	f := func(initial string, want bool) {
		t.Helper()
		o := Options{Initial: initial}
		if got := o.InitiallyUp(); got != want {
			t.Errorf("initial %q: up is %t, want %t", initial, got, want)
		}
	}
	f("up", true)
	f("", true)
	f("down", false)
}

func TestResultWords(t *testing.T) {
	var words []string
	for _, r := range append(Results(), 99) {
		words = append(words, r.String())
	}
	if got, want := strings.Join(words, " "), "ok connect timeout tls protocol status body unknown"; got != want {
		t.Errorf("results are %q, want %q", got, want)
	}
}
