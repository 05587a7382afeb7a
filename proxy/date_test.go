package proxy

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"tickgate/internal/testkit"
)

var dateField = regexp.MustCompile(`Date: (\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT)\r\n`)

// withoutDate takes out the Date that the gateway adds where the backend sent none,
// after checking that it is there.
func withoutDate(t testing.TB, raw []byte) string {
	t.Helper()
	if len(dateField.FindAllString(string(raw), -1)) != 1 {
		t.Errorf("want one Date in %.200q", raw)
	}
	return dateField.ReplaceAllString(string(raw), "")
}

func TestDate(t *testing.T) {
	t.Parallel()
	f := func(fields, want string) {
		t.Helper()
		be := testkit.NewScript(t, testkit.Respond("HTTP/1.1 200 OK\r\n"+fields+"Content-Length: 0\r\n\r\n")...)
		g := newGateway(t, toBackend(be.Addr()))
		raw := string(g.get("/").Raw)
		if strings.Count(raw, "Date: ") != 1 || !strings.Contains(raw, want) {
			t.Errorf("%q: got %q", fields, raw)
		}
	}
	f("Date: Sat, 01 Jan 2000 00:00:00 GMT\r\n", "Date: Sat, 01 Jan 2000 00:00:00 GMT\r\n") // the backend's stays
	f("", "Date: ")
}

func TestAppendDate(t *testing.T) {
	f := func(unix int64, want string) {
		t.Helper()
		if got := string(appendDate(nil, time.Unix(unix, 0))); got != want {
			t.Errorf("appendDate(%d) = %q, want %q", unix, got, want)
		}
	}
	f(0, "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n")
	f(946684800, "Date: Sat, 01 Jan 2000 00:00:00 GMT\r\n")
	f(946684801, "Date: Sat, 01 Jan 2000 00:00:01 GMT\r\n")
}
