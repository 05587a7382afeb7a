package config

import (
	"reflect"
	"testing"
	"time"

	"tickgate/internal/unit"
)

func TestExpandEnv(t *testing.T) {
	env := map[string]string{"A": "1", "B_2": "two", "EMPTY": "", "DOLLAR": "${A}"}
	lookup := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	f := func(in, want string) {
		t.Helper()
		got, _, err := expandEnv(in, lookup)
		if err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", in, got, err, want)
		}
	}
	f("", "")
	f("plain $ text", "plain $ text")
	f("${A}", "1")
	f("x${A}y${B_2}z", "x1ytwoz")
	f("${EMPTY}", "")
	f("${EMPTY:-d}", "d")
	f("${UNSET:-d}", "d")
	f("${UNSET:-}", "")
	f("${A:-d}", "1")
	f("${UNSET:-a:-b}", "a:-b")
	f("${UNSET:-/etc/x.y}", "/etc/x.y")
	f("$A", "$A")
	f("${client_addr}", "${client_addr}")
	f("${header:X}", "${header:X}")
	f("${Name}", "${Name}")
	f("${2}", "${2}")
	f("${", "${")
	f("$${A}", "${A}")
	f("$$${A}", "$${A}")
	f("$${client_addr}", "$${client_addr}")
	f("$$5", "$$5")
	f("${DOLLAR}", "${A}") // once only

	fails := func(in, want string) {
		t.Helper()
		if _, _, err := expandEnv(in, lookup); err == nil || err.Error() != want {
			t.Errorf("%q: got error %v, want %q", in, err, want)
		}
	}
	fails("${UNSET}", "environment variable UNSET is not set (${UNSET:-default} gives a default)")
	fails("${A", "${A is not closed with }")
	fails("${A:b}", "malformed ${A…}: want ${A} or ${A:-default}")
	fails("${A-b}", "malformed ${A…}: want ${A} or ${A:-default}")
}

func TestParseDuration(t *testing.T) {
	f := func(in string, want time.Duration) {
		t.Helper()
		if got, err := parseDuration(in); err != nil || got != want {
			t.Errorf("%q: got %v, %v; want %v", in, got, err, want)
		}
	}
	f("0", 0)
	f("0s", 0)
	f("1m30s", 90*time.Second)
	f("1.5s", 1500*time.Millisecond)
	f("-1s", -time.Second)

	fails := func(in, want string) {
		t.Helper()
		if _, err := parseDuration(in); err == nil || err.Error() != want {
			t.Errorf("%q: got error %v, want %q", in, err, want)
		}
	}
	fails("5", "durations have units: 5s or 5ms?")
	fails("1.5", "durations have units: 1.5s or 1.5ms?")
	fails("2d", "there is no unit for days: 48h?")
	fails("", errWrongType.Error())
	fails("soon", errWrongType.Error())
	fails("5 s", errWrongType.Error())
}

func TestDurationText(t *testing.T) {
	f := func(in time.Duration, want string) {
		t.Helper()
		if got := durationText(in); got != want {
			t.Errorf("%v: got %q, want %q", in, got, want)
		}
		if back, err := parseDuration(want); err != nil || back != in {
			t.Errorf("%q reads back as %v, %v", want, back, err)
		}
	}
	f(0, "0s")
	f(500*time.Millisecond, "500ms")
	f(10*time.Second, "10s")
	f(time.Minute, "1m")
	f(90*time.Second, "1m30s")
	f(time.Hour, "1h")
	f(10*time.Hour, "10h")
	f(time.Hour+10*time.Minute, "1h10m")
	f(time.Hour+10*time.Second, "1h0m10s")
}

func TestParseSize(t *testing.T) {
	f := func(in string, want unit.Size) {
		t.Helper()
		if got, err := parseSize(in); err != nil || got != want {
			t.Errorf("%q: got %v, %v; want %v", in, got, err, want)
		}
	}
	f("0", 0)
	f("0B", 0)
	f("512B", 512)
	f("16KiB", 16<<10)
	f("10MB", 10e6)
	f("8k", 8<<10)

	fails := func(in, want string) {
		t.Helper()
		if _, err := parseSize(in); err == nil || err.Error() != want {
			t.Errorf("%q: got error %v, want %q", in, err, want)
		}
	}
	fails("512", "sizes have units: 512B or 512KiB?")
	fails("99999999TiB", "the size is too large")
	fails("-1KiB", errWrongType.Error())
	fails("1.5KiB", errWrongType.Error())
	fails("KiB", errWrongType.Error())
	fails("", errWrongType.Error())
}

func TestParseTemplate(t *testing.T) {
	lit := func(s string) TemplatePart { return TemplatePart{Kind: Literal, Text: s} }
	f := func(in string, want ...TemplatePart) {
		t.Helper()
		if got, err := ParseTemplate(in); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %v, %v; want %v", in, got, err, want)
		}
	}
	f("")
	f("text", lit("text"))
	f("$$", lit("$"))
	f("a$$b", lit("a$b"))
	f("$${host}", lit("${host}"))
	f("$", lit("$"))
	f("US$ 5", lit("US$ 5"))
	f("${host}", TemplatePart{Kind: Variable, Text: "host"})
	f("${status}", TemplatePart{Kind: Variable, Text: "status"})
	f("a${header:X-Y}b", lit("a"), TemplatePart{Kind: RequestHeader, Text: "X-Y"}, lit("b"))
	f("${cookie:sid}", TemplatePart{Kind: RequestCookie, Text: "sid"})
	f("/$1$2/", lit("/"), TemplatePart{Kind: Capture, Index: 1}, TemplatePart{Kind: Capture, Index: 2}, lit("/"))
	f("$10", TemplatePart{Kind: Capture, Index: 1}, lit("0"))
	f("${10}", TemplatePart{Kind: Capture, Index: 10})
	f("${user}", TemplatePart{Kind: Capture, Text: "user"})

	fails := func(in, want string) {
		t.Helper()
		if _, err := ParseTemplate(in); err == nil || err.Error() != want {
			t.Errorf("%q: got error %v, want %q", in, err, want)
		}
	}
	fails("${host", `"${host" is not closed with }`)
	fails("${0}", "${0} is not a variable name")
	fails("${}", "${} is not a variable name")
	fails("${a b}", "${a b} is not a variable name")
	fails("${header:a b}", `${header:a b}: "a b" is not a header name`)
	fails("${env:X}", "unknown variable ${env:X} (want ${header:NAME} or ${cookie:NAME})")
	fails("$host/", "$host is not a variable (write ${host}, or $$ for a dollar sign)")
	fails("$0", "$0 is not a variable (write ${0}, or $$ for a dollar sign)")
}

func TestCheckTemplate(t *testing.T) {
	groups := []string{"", "user", ""} // SubexpNames of (?P<user>…)(…)
	for _, name := range KnownVariables {
		if err := CheckTemplate("${" + name + "}"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range KnownLogVariables {
		if err := CheckLogFormat("${" + name + "} ${host}"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := CheckTemplate("${" + name + "}"); err == nil {
			t.Errorf("%s: a variable of the log was accepted elsewhere", name)
		}
	}
	if err := CheckTemplate("$1 $2 ${user}", groups...); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"$3", "${usr}", "${host"} {
		if err := CheckTemplate(bad, groups...); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestCheckLogFormat(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		if err := CheckLogFormat(in); err == nil && want != "" || err != nil && err.Error() != want {
			t.Errorf("%q: got error %v, want %q", in, err, want)
		}
	}
	f("${status} ${header:Accept} $$5 $$${uri}", "")
	f("${status} $1", "holds a $ without a name (write ${name}, or $$ for a dollar sign)")
	f("${status} $", "holds a $ without a name (write ${name}, or $$ for a dollar sign)")
	f("${status}\n", `holds the control character '\n'`)
	f("${name}", "unknown variable ${name}")
}

func TestClosest(t *testing.T) {
	f := func(got, want string, candidates ...string) {
		t.Helper()
		if s := closest(got, candidates); s != want {
			t.Errorf("%q among %q: got %q, want %q", got, candidates, s, want)
		}
	}
	f("weigth", "weight", "weight", "height")
	f("round_robbin", "round_robin", "random", "round_robin")
	f("lsiten", "listen", "listen", "tls")
	f("xyz", "", "listen", "tls")
	f("", "", "tls")
	f("ab", "", "xy")
}

func TestParseListen(t *testing.T) {
	f := func(a, b string, want bool) {
		t.Helper()
		x, why1 := parseListen(a)
		y, why2 := parseListen(b)
		if why1 != "" || why2 != "" {
			t.Fatalf("%q: %s; %q: %s", a, why1, b, why2)
		}
		if got := x.collides(y); got != want {
			t.Errorf("%q and %q: got %t, want %t", a, b, got, want)
		}
		if got := y.collides(x); got != want {
			t.Errorf("%q and %q: got %t, want %t", b, a, got, want)
		}
	}
	f(":80", ":80", true)
	f(":80", ":81", false)
	f(":80", "[::]:80", true)
	f(":80", "0.0.0.0:80", true)
	f(":80", "10.0.0.1:80", true)
	f(":80", "[fd00::1]:80", true)
	f("0.0.0.0:80", "10.0.0.1:80", true)
	f("0.0.0.0:80", "[fd00::1]:80", false)
	f("0.0.0.0:80", "localhost:80", true)
	f("10.0.0.1:80", "10.0.0.2:80", false)
	f("10.0.0.1:80", "[::ffff:10.0.0.1]:80", true)
	f("localhost:80", "LOCALHOST:80", true)
	f("localhost:80", "127.0.0.1:80", true)
	f("localhost.:80", "127.0.0.1:80", true)
	f("localhost:80", "127.0.0.2:80", false)
	f("localhost:80", "[::1]:80", false)
	f(":80", "localhost:80", true)
	f("localhost:80", "otherhost:80", false)
	f("otherhost.:80", "OtherHost:80", true)
	f("127.0.0.1:0", "127.0.0.1:0", false)
	f("unix:/a", "unix:/a", true)
	f("unix:/a", "unix:/b", false)
	f("unix:/a", ":80", false)
}

func TestCheckHostPattern(t *testing.T) {
	f := func(host string, valid bool) {
		t.Helper()
		if why := checkHostPattern(host); (why == "") != valid {
			t.Errorf("%q: got %q, want valid=%t", host, why, valid)
		}
	}
	f("example.com", true)
	f("*.example.com", true)
	f("localhost", true)
	f("xn--bcher-kva.example", true)
	f("10.0.0.1", true)
	f("[fd00::1]", true)
	f("a_b.internal", true)
	f("*", false)
	f("*example.com", false)
	f("*.*.com", false)
	f("example.com:80", false)
	f("fd00::1", false)
	f("[fd00::1]:80", false)
	f("-a.example", false)
	f("a..example", false)
	f("1.2.3.4.5", false)
	f("bücher.example", false)
}
