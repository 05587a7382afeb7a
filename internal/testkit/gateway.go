package testkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// BinEnv names a built tickgate to test instead of building one.
const BinEnv = "TICKGATE_BIN"

// pollEvery is the pace at which the kit asks a process for its state.
const pollEvery = 10 * time.Millisecond

// built is the binary of this test process.
var built struct {
	once sync.Once
	path string
	err  error
}

// Binary returns the tickgate binary: $TICKGATE_BIN, or one built once for each
// test process.
func Binary(t testing.TB) string {
	t.Helper()
	built.once.Do(func() { built.path, built.err = build() })
	if built.err != nil {
		t.Fatalf("build tickgate: %v", built.err)
	}
	return built.path
}

// build compiles cmd/tickgate to a folder that the user's cache keeps, so that it
// needs no cleaning after the last test.
func build() (string, error) {
	if path := os.Getenv(BinEnv); path != "" {
		return filepath.Abs(path)
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(os.TempDir(), "tickgate-testkit-"+strconv.Itoa(os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	// The name is this process's own, as packages are tested at the same time.
	path := filepath.Join(dir, "tickgate-"+strconv.Itoa(os.Getpid()))
	removeStale(dir)
	cmd := exec.Command("go", "build", "-o", path, "./cmd/tickgate")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
}

// removeStale removes binaries that earlier test processes left.
func removeStale(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		pid, err := strconv.Atoi(strings.TrimPrefix(e.Name(), "tickgate-"))
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// ErrNoRoot is returned outside of the module.
var ErrNoRoot = errors.New("testkit: no go.mod above the kit's source")

// Root returns the folder of go.mod.
func Root() (string, error) {
	_, file, _, _ := runtime.Caller(0)
	for dir := filepath.Dir(file); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", ErrNoRoot
		}
	}
}

// GatewayOptions changes how a Gateway is started.
type GatewayOptions struct {
	// Admin is the admin address that the configuration sets itself. By default
	// the kit chooses one and adds it to the configuration.
	Admin string
	// Token is the admin token, if the configuration sets one.
	Token string
	// Args follow "run -c FILE".
	Args []string
	// Env is added to the environment, as "NAME=value".
	Env []string
}

// Gateway is a running `tickgate run`.
type Gateway struct {
	// Admin is the host:port of the admin endpoint.
	Admin string
	// ConfigFile is the path of the configuration.
	ConfigFile string
	// PID is the process id.
	PID int

	t      testing.TB
	opts   GatewayOptions
	cmd    *exec.Cmd
	log    logBuffer
	exited chan struct{} // closed when the process has ended
}

// StartGateway writes the configuration, starts the gateway and waits until it is
// ready. It is killed when the test ends; a failed test shows its log.
func StartGateway(t testing.TB, yaml string) *Gateway {
	t.Helper()
	return StartGatewayWith(t, yaml, GatewayOptions{})
}

// StartGatewayWith is StartGateway with options.
func StartGatewayWith(t testing.TB, yaml string, opts GatewayOptions) *Gateway {
	t.Helper()
	g := LaunchGateway(t, yaml, opts)
	g.WaitReady()
	return g
}

// LaunchGateway starts the gateway and does not wait, for starts that should fail.
func LaunchGateway(t testing.TB, yaml string, opts GatewayOptions) *Gateway {
	t.Helper()
	g := &Gateway{Admin: opts.Admin, t: t, opts: opts, exited: make(chan struct{})}
	if g.Admin == "" {
		g.Admin = FreeAddr(t)
	}
	g.ConfigFile = filepath.Join(t.TempDir(), "tickgate.yaml")
	g.WriteConfig(yaml)
	g.cmd = exec.Command(Binary(t), append([]string{"run", "-c", g.ConfigFile}, opts.Args...)...)
	g.cmd.Env = append(os.Environ(), opts.Env...)
	g.cmd.Stdout, g.cmd.Stderr = &g.log, &g.log
	if err := g.cmd.Start(); err != nil {
		t.Fatalf("start gateway: %v", err)
	}
	g.PID = g.cmd.Process.Pid
	go g.reap()
	t.Cleanup(g.cleanup)
	return g
}

// reap waits for the process.
func (g *Gateway) reap() {
	_ = g.cmd.Wait() // the exit code is in ProcessState
	close(g.exited)
}

func (g *Gateway) cleanup() {
	_ = g.cmd.Process.Kill()
	<-g.exited
	if g.t.Failed() {
		g.t.Logf("gateway log:\n%s", g.Log())
	}
}

// WriteConfig replaces the configuration file, in one step. The admin address is
// added unless the options say that the configuration has it.
func (g *Gateway) WriteConfig(yaml string) {
	g.t.Helper()
	if g.opts.Admin == "" {
		yaml = "admin: {listen: " + g.Admin + "}\n" + yaml
	}
	next := g.ConfigFile + ".next"
	err := os.WriteFile(next, []byte(yaml), 0o600)
	if err == nil {
		err = os.Rename(next, g.ConfigFile)
	}
	if err != nil {
		g.t.Fatalf("write configuration: %v", err)
	}
}

// Signal sends a signal to the process.
func (g *Gateway) Signal(sig syscall.Signal) {
	g.t.Helper()
	if err := g.cmd.Process.Signal(sig); err != nil {
		g.t.Fatalf("signal %v: %v", sig, err)
	}
}

// Running says whether the process has not ended.
func (g *Gateway) Running() bool {
	select {
	case <-g.exited:
		return false
	default:
		return true
	}
}

// WaitReady waits until /readyz answers 200.
func (g *Gateway) WaitReady() {
	g.t.Helper()
	g.WaitUntil("readiness", func() bool {
		if !g.Running() {
			g.t.Fatalf("gateway ended with code %d before it was ready", g.cmd.ProcessState.ExitCode())
		}
		status, _, err := g.TryAdmin(http.MethodGet, "/readyz")
		return err == nil && status == http.StatusOK
	})
}

// WaitUntil asks again and again until holds.
func (g *Gateway) WaitUntil(what string, holds func() bool) {
	g.t.Helper()
	WaitUntil(g.t, what, holds)
}

// WaitExit waits for the end of the process and returns its exit code, -1 if a
// signal ended it.
func (g *Gateway) WaitExit(within time.Duration) int {
	g.t.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-g.exited:
		return g.cmd.ProcessState.ExitCode()
	case <-timer.C:
		g.t.Fatalf("gateway still runs after %v", within)
		return -1
	}
}

// Stop drains the gateway with SIGTERM and returns its exit code.
func (g *Gateway) Stop() int {
	g.t.Helper()
	g.Signal(syscall.SIGTERM)
	return g.WaitExit(Patience)
}

// admin does not keep connections, which would be in the way of a drain.
var admin = &http.Client{Timeout: Patience, Transport: &http.Transport{DisableKeepAlives: true}}

// TryAdmin asks the admin endpoint.
func (g *Gateway) TryAdmin(method, path string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+g.Admin+path, nil)
	if err != nil {
		return 0, "", err
	}
	if g.opts.Token != "" {
		req.Header.Set("Authorization", "Bearer "+g.opts.Token)
	}
	resp, err := admin.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// AdminGet returns the body of an admin page, which must answer 200.
func (g *Gateway) AdminGet(path string) string {
	g.t.Helper()
	status, body, err := g.TryAdmin(http.MethodGet, path)
	if err != nil || status != http.StatusOK {
		g.t.Fatalf("GET %s: %d %v %s", path, status, err, body)
	}
	return body
}

// Reload writes the configuration and reloads it through the admin API, which
// answers when the new snapshot serves or the configuration is refused.
func (g *Gateway) Reload(yaml string) (status int, body string) {
	g.t.Helper()
	g.WriteConfig(yaml)
	status, body, err := g.TryAdmin(http.MethodPost, "/api/v1/reload")
	if err != nil {
		g.t.Fatalf("reload: %v", err)
	}
	return status, body
}

// Metric returns the sum of the series whose name and labels begin with prefix.
func (g *Gateway) Metric(prefix string) float64 {
	g.t.Helper()
	return SumMetric(g.AdminGet("/metrics"), prefix)
}

// SumMetric adds up the series of an exposition whose line begins with prefix.
func SumMetric(exposition, prefix string) float64 {
	var sum float64
	for line := range strings.Lines(exposition) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, prefix) {
			continue
		}
		if i := strings.LastIndexByte(line, ' '); i > 0 {
			value, _ := strconv.ParseFloat(line[i+1:], 64)
			sum += value
		}
	}
	return sum
}

// Log returns what the gateway has written to its standard outputs.
func (g *Gateway) Log() string { return g.log.String() }

// WaitLog waits until the log contains text.
func (g *Gateway) WaitLog(text string) {
	g.t.Helper()
	g.WaitUntil(fmt.Sprintf("log line with %q", text), func() bool { return strings.Contains(g.Log(), text) })
}

// PSS returns the proportional set size of the process in bytes.
func (g *Gateway) PSS() int64 {
	g.t.Helper()
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", g.PID))
	if err != nil {
		g.t.Fatalf("read PSS: %v", err)
	}
	for line := range strings.Lines(string(rollup)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	g.t.Fatalf("no Pss in smaps_rollup")
	return 0
}

// logBuffer collects output, written by the process's copier and read by tests.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String returns everything so far.
func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
