package compare

import (
	"errors"
	"math"
	"strings"
	"testing"

	"tickgate/loadtest/report"
)

func TestBars(t *testing.T) {
	r := &report.Report{Subject: "tickgate", Sections: []report.Section{{ID: "tls", Rows: []report.Row{
		{Name: cpuPerFull, Rounds: map[string][]float64{"tickgate": {90, 110, 100}, "nginx": {100, 100, 100}}},
		{Name: half99, Rounds: map[string][]float64{"tickgate": {2.5, math.NaN(), 3.5}}},
	}}}}
	f := func(text, found string, want bool) {
		t.Helper()
		b, err := ParseBar(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := b.Judge(r); ok != want || !strings.Contains(got, found) {
			t.Errorf("%s: %s, %t, want %s, %t", text, got, ok, found, want)
		}
	}
	f("tls/CPU per full handshake<=1.0*nginx", "1.00 (0.90–1.10) in 3 rounds", true)
	f("tls/CPU per full handshake <= 0.99 * nginx", "1.00", false)
	f("tls/CPU per full handshake<=1*haproxy", "not measured", false)
	f("tls/full handshake p99 at half speed<=3", "3.00 (2.50–3.50) in 2 rounds", true)
	f("tls/full handshake p99 at half speed<=2.9", "3.00", false)
	f("tls/full handshake p99<=1000", "NaN", false)
	f("http/CPU per request<=1*nginx", "not measured", false)

	for _, text := range []string{"", "tls", "tls/CPU per full handshake", "tls/CPU per full handshake<=x", "tls/CPU per full handshake<=0", "CPU per full handshake<=1", "tls/none<=1", "ftp/CPU per full handshake<=1*nginx"} {
		if _, err := ParseBar(text); !errors.Is(err, ErrBar) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
