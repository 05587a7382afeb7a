package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tickgate/internal/testkit"
)

// accessLog writes a log of n requests within a second, and one line that is none.
func accessLog(t *testing.T, n int) string {
	t.Helper()
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "127.0.0.1 - - [02/Jan/2026:10:00:00 +0000] \"GET /%d HTTP/1.1\" %d 1 \"-\" \"x\"\n", i, 200+204*(i%2))
	}
	b.WriteString("nonsense\n")
	path := filepath.Join(t.TempDir(), "access.log")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReplay(t *testing.T) {
	backend := testkit.NewRecorder(t, nil)
	url := "http://" + backend.Addr()
	log := accessLog(t, 10)
	f := func(args string, wantCode int, want ...string) {
		t.Helper()
		var out strings.Builder
		code := run(t.Context(), strings.Fields("replay "+args), &out, &out)
		if code != wantCode {
			t.Errorf("%s: exit code %d, want %d: %s", args, code, wantCode, out.String())
		}
		for _, text := range want {
			if !strings.Contains(out.String(), text) {
				t.Errorf("%s: %q, want it with %q", args, out.String(), text)
			}
		}
	}
	f("", exitUsage, "log FILE is required", "examples:")
	f("-h", exitOK, "-burst", "examples:")
	f(log, exitUsage, "-url is required")
	f(log+" -url http://192.0.2.1", exitUsage, "-really")
	f(log+" -url http://localhost.example", exitUsage, "-really")
	f(log+" -url http://127.0.0.1:1 -host none", exitUsage, `-host is "none"`)
	f(log+" - -url http://127.0.0.1:1", exitUsage, "cannot be merged")
	f(log+" -burst 3x -url http://127.0.0.1:1", exitUsage, "bad burst")
	f(log+" -speed -1 -url http://127.0.0.1:1", exitFailed, "speed -1")
	f("/nonexistent -dry-run", exitFailed, "open log")
	f(log+" -dry-run", exitOK, "would send  10 requests in 0.9 s", "GET 10", "(the target's) 10", "bad_syntax 1", `access.log:11: bad_syntax: "nonsense"`)
	f("-dry-run -url http://a:1 -burst 3x1s@0s "+log, exitOK, "would send  30 requests", "a:1 30", "20 copies")
	f("-dry-run -json "+log, exitOK, `"peak": 10`)
	f("-dry-run -strict "+log, exitFailed, "access.log:11: bad_syntax")
	f("-dry-run -format json "+log, exitFailed, "bad_syntax 11", "holds no request")
	f(log+" -may-lag -speed 10 -compare -url "+url, exitOK, "10 due, 10 sent, 5 ok", "404      200          5", "5 of 10 requests got")
	f(log+" -may-lag -strict -speed 10 -url "+url, exitFailed, "bad_syntax")
	if got := len(backend.Requests()); got != 20 {
		t.Errorf("the backend got %d requests, want 20", got)
	}
}

func TestReplayJSON(t *testing.T) {
	backend := testkit.NewRecorder(t, nil)
	var out, errOut strings.Builder
	args := []string{"replay", accessLog(t, 4), "-url", "http://" + backend.Addr(), "-json", "-compare", "-may-lag", "-speed", "10"}
	if code := run(t.Context(), args, &out, &errOut); code != exitOK {
		t.Fatalf("exit code %d: %s", code, errOut.String())
	}
	var got struct {
		Log     struct{ Lines, Requests int64 }
		Result  struct{ Sent int64 }
		Compare []struct {
			Logged, Got int
			Count       int64
		}
	}
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatal(err)
	}
	if got.Log.Lines != 5 || got.Log.Requests != 4 || got.Result.Sent != 4 || len(got.Compare) != 2 || got.Compare[1].Logged != 404 || got.Compare[1].Got != 200 {
		t.Errorf("%+v", got)
	}
}
