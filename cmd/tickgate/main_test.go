package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tickgate/internal/testkit"
)

// try runs a command and returns its exit code and output.
func try(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	err := command(args, &out, &errs)
	var exit exitCode
	switch {
	case errors.As(err, &exit):
		code = int(exit)
	case err != nil:
		code = 1
		fmt.Fprintln(&errs, err)
	}
	return code, out.String(), errs.String()
}

// write makes a file in a folder of the test.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const goodConfig = `
listeners: [{listen: "127.0.0.1:0"}]
routes: [{path: /, static_response: {body: hi}}]
`

func TestCommands(t *testing.T) {
	f := func(code int, word string, args ...string) {
		t.Helper()
		got, out, errs := try(args...)
		if got != code && !(code == 0 && strings.Contains(errs, "help requested")) || !strings.Contains(out+errs, word) {
			t.Errorf("%q: exit code %d, want %d; want %q in:\n%s%s", args, got, code, word, out, errs)
		}
	}
	good, bad := write(t, "good.yaml", goodConfig), write(t, "bad.yaml", "listeners: 1\n")
	f(2, "Usage:")
	f(0, "Usage:", "--help")
	f(0, "tickgate dev", "version")
	f(2, `unknown command "frob"`, "frob")
	f(0, "0 errors", "check", "-c", good)
	f(0, `"valid": true`, "check", "-c", good, "--format", "json")
	f(1, "bad.yaml:1:12", "check", "-c", bad)
	f(1, `"path": "listeners"`, "check", "-c", bad, "--format", "json")
	f(2, "no such file", "check", "-c", good+".not")
	f(2, "Usage:", "check")
	f(2, "Usage:", "check", "-c", good, "--format", "xml")
	f(2, "Usage:", "run")
	f(2, "unexpected argument", "run", "-c", good, "extra")
	f(1, "exclude each other", "run", "-c", good, "--demo")
	f(1, "not valid", "run", "-c", bad)
	f(1, "is the gateway running", "reload", "--admin", testkit.FreeAddr(t))
}

// configOn is a configuration with one listener and an answer.
func configOn(addr, answer string) string {
	return fmt.Sprintf("listeners: [{listen: %q}]\nroutes: [{path: /, static_response: {body: %q}}]\n", addr, answer)
}

func fetch(t *testing.T, addr string) string {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestReloadCommand goes the way of an operator: edit, reload, look.
func TestReloadCommand(t *testing.T) {
	addr := testkit.FreeAddr(t)
	g := testkit.StartGateway(t, configOn(addr, "old"))
	reloads := func(code int, word string) {
		t.Helper()
		if got, out, errs := try("reload", "--admin", g.Admin); got != code || !strings.Contains(out+errs, word) {
			t.Errorf("exit code %d, want %d; want %q in:\n%s%s", got, code, word, out, errs)
		}
	}
	g.WriteConfig(configOn(addr, "new"))
	reloads(0, "reloaded")
	if got := fetch(t, addr); got != "new" {
		t.Errorf("serves %q after the reload", got)
	}
	g.WriteConfig("routes: 1\n")
	reloads(1, "reload refused")
	if got := fetch(t, addr); got != "new" {
		t.Errorf("serves %q after the refused reload", got)
	}
	if n := g.Metric(`tickgate_reloads_total{result="failed"}`); n != 1 {
		t.Errorf("%v refused reloads are counted, want 1", n)
	}
	g.WriteConfig(configOn(addr, "third"))
	g.Signal(syscall.SIGHUP)
	g.WaitUntil("the reload by SIGHUP", func() bool { return fetch(t, addr) == "third" })
}

func TestSignals(t *testing.T) {
	f := func(sig syscall.Signal, code int) {
		t.Helper()
		g := testkit.StartGateway(t, configOn(testkit.FreeAddr(t), "hi"))
		g.Signal(sig)
		if got := g.WaitExit(10 * time.Second); got != code {
			t.Errorf("%v: exit code %d, want %d", sig, got, code)
		}
	}
	f(syscall.SIGTERM, 0)
	f(syscall.SIGQUIT, 0)
	f(syscall.SIGINT, 130)
}

// TestReopenLogs rotates the access log as logrotate does.
func TestReopenLogs(t *testing.T) {
	addr, file := testkit.FreeAddr(t), filepath.Join(t.TempDir(), "access.log")
	g := testkit.StartGateway(t, configOn(addr, "hi")+fmt.Sprintf("log: {access: {output: %q, flush: 1ms, format: \"${path}\"}}\n", file))
	lines := func(name string) int {
		b, _ := os.ReadFile(name)
		return bytes.Count(b, []byte("\n"))
	}
	fetch(t, addr)
	g.WaitUntil("the first line", func() bool { return lines(file) == 1 })
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	g.Signal(syscall.SIGUSR1)
	g.WaitUntil("a new file", func() bool { _, err := os.Stat(file); return err == nil })
	fetch(t, addr)
	g.WaitUntil("a line in the new file", func() bool { return lines(file) == 1 })
	if n := lines(file + ".1"); n != 1 {
		t.Errorf("the rotated file has %d lines, want 1", n)
	}
}
