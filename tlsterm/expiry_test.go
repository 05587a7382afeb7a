package tlsterm

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Each certificate is told about once at each stage and daily after its end, whatever the time between looks.
func TestExpiries(t *testing.T) {
	start := time.Date(2030, 6, 1, 0, 0, 0, 0, time.UTC)
	cert := func(name string, leafEnds, chainEnds time.Duration) CertInfo {
		return CertInfo{CertFile: name, Fingerprint: name, NotAfter: start.Add(leafEnds), ChainNotAfter: start.Add(chainEnds)}
	}
	a, b := cert("a", 40*oneDay, 40*oneDay), cert("b", 90*oneDay, 8*oneDay)
	renewed := cert("b", 90*oneDay, 400*oneDay)
	var e Expiries
	f := func(at time.Duration, want string, certs ...CertInfo) {
		t.Helper()
		var got []string
		for _, n := range e.Look(start.Add(at), certs) {
			text := fmt.Sprintf("%s %s", n.Cert.CertFile, n.Stage)
			if n.Intermediate() {
				text += " intermediate"
			}
			got = append(got, text)
		}
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("after %s: %q, want %q", at, s, want)
		}
	}
	f(0, "b 30d intermediate", a, b)
	f(time.Minute, "", a, b, a, b)
	f(oneDay-1, "", a, b)
	f(oneDay, "b 7d intermediate", a, b)
	f(7*oneDay, "b 1d intermediate", a, b)
	f(8*oneDay-1, "", a, b)
	f(8*oneDay, "b expired intermediate", a, b)
	f(9*oneDay-1, "", a, b)
	f(9*oneDay, "b expired intermediate", a, b)
	f(9*oneDay+time.Minute, "", a, renewed)
	f(10*oneDay-1, "", a, renewed)
	f(10*oneDay, "a 30d", a, renewed)
	f(10*oneDay+time.Minute, "", renewed)
	f(10*oneDay+2*time.Minute, "a 30d", a, a, renewed) // put back
	f(41*oneDay, "a expired", a, renewed)              // after a long sleep, only what counts now
	e = Expiries{}
	f(41*oneDay, "a expired", a, renewed) // after a restart
}

func TestInText(t *testing.T) {
	f := func(left time.Duration, want string) {
		t.Helper()
		if got := InText(left); got != want {
			t.Errorf("%s: %q, want %q", left, got, want)
		}
	}
	f(30*oneDay-1, "in 29 days")
	f(2*oneDay, "in 2 days")
	f(2*oneDay-1, "in 1 day")
	f(oneDay, "in 1 day")
	f(oneDay-1, "in 23 hours")
	f(2*time.Hour, "in 2 hours")
	f(2*time.Hour-1, "in 1 hour")
	f(time.Hour-1, "in less than an hour")
	f(1, "in less than an hour")
}
