package accept

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"tickgate/loadtest/fault"
	"tickgate/loadtest/peer"
)

// process is a gateway or a backend.
type process interface {
	// ID is the id of the process.
	ID() int
	// Reload gives it another configuration to go over to.
	Reload(yaml string) error
	// Stop tells it to end in order and waits for that, for a bounded time.
	Stop() error
}

// gatewaySpec is a gateway to start.
type gatewaySpec struct {
	Name   string
	Listen string // host:port that clients connect to
	Admin  string // host:port of its own
	YAML   string
}

// backendSpec is a backend to start.
type backendSpec struct {
	Name   string
	Listen string
	// Size of the bodies, by which backends can be told apart.
	Size int
	// CertFile and KeyFile switch TLS on.
	CertFile, KeyFile string
}

// parts are what a bench is made of: replaced one by one in tests, to see each item fail
// without it.
type parts struct {
	gateway    func(ctx context.Context, s gatewaySpec) (process, error)
	backend    func(ctx context.Context, s backendSpec) (process, error)
	breaker    func(o fault.Options) (breaker, error)
	supports   func(ctx context.Context, yaml, key string) error // nil, or ErrUnsupported
	contention func(s Split, bottleneck string) string
}

// ErrUnsupported is returned for a configuration that the gateway does not understand.
var ErrUnsupported = errors.New("accept: the gateway does not know this key")

// drainsWithin is how long a gateway may take to end in order.
const drainsWithin = 60 * time.Second

// programs starts the real parts from two files, with logs and configurations in a folder.
type programs struct {
	tickgate, tickload, dir string
}

// parts returns the real ones.
func (p programs) parts() parts {
	return parts{gateway: p.gateway, backend: p.backend, breaker: newBreaker, supports: p.supports, contention: contention}
}

// child is a process that was started, and the file of its configuration.
type child struct {
	*peer.Process
	pid  int
	file string
}

// ID implements process.
func (c *child) ID() int { return c.pid }

// Reload implements process.
func (c *child) Reload(yaml string) error {
	next := c.file + ".next"
	if err := os.WriteFile(next, []byte(yaml), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if err := os.Rename(next, c.file); err != nil {
		return fmt.Errorf("replace configuration: %w", err)
	}
	if err := syscall.Kill(c.pid, syscall.SIGHUP); err != nil {
		return fmt.Errorf("send SIGHUP: %w", err)
	}
	return nil
}

// gateway starts tickgate. It waits for the admin endpoint, which opens behind the
// listeners: another process may have the address of those, too.
func (p programs) gateway(ctx context.Context, s gatewaySpec) (process, error) {
	file := filepath.Join(p.dir, s.Name+".yaml")
	if err := os.WriteFile(file, []byte(s.YAML), 0o600); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	return launch(ctx, file, peer.Command{
		Name: "tickgate", Path: p.tickgate, Args: []string{"run", "-c", file}, Addr: s.Admin,
		Log: filepath.Join(p.dir, s.Name+".log"), Grace: drainsWithin,
	})
}

// backend starts tickload's own.
func (p programs) backend(ctx context.Context, s backendSpec) (process, error) {
	args := []string{"backend", "-listen", s.Listen, "-size", strconv.Itoa(s.Size)}
	if s.CertFile != "" {
		args = append(args, "-tls-cert", s.CertFile, "-tls-key", s.KeyFile)
	}
	return launch(ctx, "", peer.Command{Name: "backend", Path: p.tickload, Args: args, Addr: s.Listen, Log: filepath.Join(p.dir, s.Name+".log")})
}

func launch(ctx context.Context, file string, c peer.Command) (process, error) {
	started, err := peer.Launch(ctx, c)
	if err != nil {
		return nil, err
	}
	return &child{started, started.PID, file}, nil
}

// checksWithin bounds the examination of a configuration.
const checksWithin = 30 * time.Second

// supports asks tickgate whether a configuration is valid. ErrUnsupported says that what is
// wrong with it is the key alone.
func (p programs) supports(ctx context.Context, yaml, key string) error {
	file := filepath.Join(p.dir, "supports.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, checksWithin)
	defer cancel()
	text, err := exec.CommandContext(ctx, p.tickgate, "check", "-c", file, "--format", "json").Output()
	var refused *exec.ExitError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &refused) || ctx.Err() != nil:
		return fmt.Errorf("ask tickgate about a configuration: %w", err)
	}
	return refusal(text, key)
}

// refusal makes an error of what tickgate check says.
func refusal(text []byte, key string) error {
	var report struct {
		Problems []struct{ Severity, Path, Message, Want string }
	}
	if err := json.Unmarshal(text, &report); err != nil {
		return fmt.Errorf("what tickgate check says: %w", err)
	}
	var because error
	for _, one := range report.Problems {
		switch {
		case one.Severity != "error":
		case one.Path != key:
			return fmt.Errorf("tickgate check: %s: %s", one.Path, one.Message)
		default:
			because = fmt.Errorf("%w: %s: %s", ErrUnsupported, one.Path, one.Message)
		}
	}
	if because == nil {
		return errors.New("tickgate check refuses a configuration and does not say why")
	}
	return because
}
