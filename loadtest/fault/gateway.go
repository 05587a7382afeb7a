package fault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"tickgate/loadtest/pace"
)

// BinEnv names the tickgate to start, if Options do not.
const BinEnv = "TICKGATE_BIN"

var (
	// ErrGateway is returned for a gateway that does not start, or ends on its own.
	ErrGateway = errors.New("fault: gateway")
	// ErrScenario is returned for a scenario that cannot be played.
	ErrScenario = errors.New("fault: bad scenario")
)

const (
	// stopWithin is how long a gateway may drain before it is killed.
	stopWithin = 3 * time.Second
	// keptLog is how much of the end of a gateway's log is kept.
	keptLog = 32 << 10
	// adminTimeout bounds one question to the admin endpoint.
	adminTimeout = 5 * time.Second
	// maxMetrics bounds an exposition.
	maxMetrics = 16 << 20
)

// gateway is a process that was started, or one that runs elsewhere.
type gateway struct {
	url, admin string

	// Nil or empty for one that runs elsewhere.
	cmd   *exec.Cmd
	log   tail
	ended chan struct{} // closed when the process has ended
}

// startGateway starts what the scenario wants, and waits until it is ready. names are the
// values of placeholders.
func startGateway(ctx context.Context, spec *GatewaySpec, bin, dir string, names map[string]string) (*gateway, error) {
	if spec.URL != "" {
		return &gateway{url: strings.TrimSuffix(expand(spec.URL, names), "/"), admin: strings.TrimSuffix(expand(spec.Admin, names), "/")}, nil
	}
	file := spec.ConfigFile
	if file == "" {
		file = filepath.Join(dir, "tickgate.yaml")
		if err := os.WriteFile(file, []byte(expand(spec.Config, names)), 0o600); err != nil {
			return nil, fmt.Errorf("write configuration: %w", err)
		}
	}
	bin, err := findBinary(bin)
	if err != nil {
		return nil, err
	}
	g := &gateway{url: "http://" + names["LISTEN"], admin: "http://" + names["ADMIN"], ended: make(chan struct{})}
	g.cmd = exec.Command(bin, "run", "-c", file) //nolint:gosec // what the caller asked to be run
	g.cmd.Env = os.Environ()
	for _, name := range slices.Sorted(maps.Keys(names)) {
		g.cmd.Env = append(g.cmd.Env, name+"="+names[name])
	}
	g.cmd.Stdout, g.cmd.Stderr = &g.log, &g.log
	if err := g.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: start: %w", ErrGateway, err)
	}
	go g.reap()
	if err := g.awaitReady(ctx, spec.ReadyWithin); err != nil {
		g.stop()
		return nil, fmt.Errorf("%w; its log ends with:\n%s", err, g.log.String())
	}
	return g, nil
}

// findBinary finds the tickgate to start: as told, by the environment, beside this program, or
// in PATH.
func findBinary(told string) (string, error) {
	if told == "" {
		told = os.Getenv(BinEnv)
	}
	if told != "" {
		return told, nil
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "tickgate")
		if info, err := os.Stat(beside); err == nil && !info.IsDir() {
			return beside, nil
		}
	}
	found, err := exec.LookPath("tickgate")
	if err != nil {
		return "", fmt.Errorf("%w: no tickgate beside this program, in $%s or in PATH: %w", ErrGateway, BinEnv, err)
	}
	return found, nil
}

// reap waits for the process.
func (g *gateway) reap() {
	_ = g.cmd.Wait() // the exit code is in ProcessState
	close(g.ended)
}

// awaitReady waits for /readyz.
func (g *gateway) awaitReady(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		if _, err := g.ask(ctx, "/readyz"); err == nil {
			return nil
		}
		select {
		case <-g.ended:
			return fmt.Errorf("%w: ended with code %d before it was ready", ErrGateway, g.cmd.ProcessState.ExitCode())
		default:
		}
		if !pace.Sleep(ctx, 20*time.Millisecond) {
			return fmt.Errorf("%w: not ready within ready_within=%v", ErrGateway, within)
		}
	}
}

// alive returns an error once a process that was started has ended.
func (g *gateway) alive() error {
	select {
	case <-g.ended: // nil, which never is, for one that runs elsewhere
		return fmt.Errorf("%w: ended with code %d; its log ends with:\n%s", ErrGateway, g.cmd.ProcessState.ExitCode(), g.log.String())
	default:
		return nil
	}
}

// adminClient keeps no connection.
var adminClient = &http.Client{Timeout: adminTimeout, Transport: &http.Transport{DisableKeepAlives: true}}

// ask returns a page of the admin endpoint that answers with 200.
func (g *gateway) ask(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.admin+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := adminClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("admin endpoint: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxMetrics))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%w: GET %s: status %d", ErrGateway, path, resp.StatusCode)
	}
	return string(body), err
}

// stop drains the process, and kills it if that takes too long.
func (g *gateway) stop() {
	if g.cmd == nil {
		return
	}
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(stopWithin)
	defer timer.Stop()
	select {
	case <-g.ended:
	case <-timer.C:
		_ = g.cmd.Process.Kill()
		<-g.ended
	}
}

// freeAddr returns a loopback address that is free at this moment.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return ln.Addr().String(), ln.Close()
}

// expand replaces ${NAME} by the value of a name; other text stays.
func expand(text string, names map[string]string) string {
	var pairs []string
	for name, value := range names {
		pairs = append(pairs, "${"+name+"}", value)
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// sum adds up the series of an exposition that have the name and the labels.
func (s series) sum(exposition string) (total float64) {
	for line := range strings.Lines(exposition) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), s.name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		at := strings.LastIndexByte(rest, ' ')
		has := labelText.FindAllString(rest[:at], -1)
		if slices.ContainsFunc(s.labels, func(label string) bool { return !slices.Contains(has, label) }) {
			continue
		}
		value, err := strconv.ParseFloat(rest[at+1:], 64)
		if err == nil {
			total += value
		}
	}
	return total
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte // guarded by mu
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if len(t.b) > 2*keptLog {
		t.b = bytes.Clone(t.b[len(t.b)-keptLog:])
	}
	return len(p), nil
}

// String returns the end.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b[max(0, len(t.b)-keptLog):])
}
