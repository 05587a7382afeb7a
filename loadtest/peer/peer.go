package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Kind is one of the gateways.
type Kind uint8

// The gateways.
const (
	Tickgate Kind = iota
	NetHTTP
	Nginx
	HAProxy
)

// Kinds lists all, in the order in which they are measured unless told otherwise.
var Kinds = []Kind{Tickgate, Nginx, HAProxy, NetHTTP}

// String returns the name by which a peer is chosen and found in reports.
func (k Kind) String() string {
	switch k {
	case Tickgate:
		return "tickgate"
	case NetHTTP:
		return "nethttp"
	case Nginx:
		return "nginx"
	case HAProxy:
		return "haproxy"
	}
	panic(fmt.Sprintf("BUG: peer: kind %d", k))
}

// ErrUnknown is returned for a name that no gateway has.
var ErrUnknown = errors.New("peer: no such gateway")

// ErrMissing is returned for a gateway whose program is not on this machine.
var ErrMissing = errors.New("peer: program is missing")

// Parse returns the gateway of a name.
func Parse(name string) (Kind, error) {
	i := slices.IndexFunc(Kinds, func(k Kind) bool { return k.String() == name })
	if i < 0 {
		return 0, fmt.Errorf("%w: %q (want one of %v)", ErrUnknown, name, Kinds)
	}
	return Kinds[i], nil
}

// Programs are the files of our own programs; nginx and HAProxy are looked for where Debian puts them.
type Programs struct {
	Tickgate, Tickload string
}

// Installed returns nil, or an error that wraps ErrMissing and says how to get the program.
func (p Programs) Installed(k Kind) error {
	_, err := p.Path(k)
	return err
}

// Path returns the file of a gateway's program; the error is that of Installed.
func (p Programs) Path(k Kind) (string, error) {
	switch k {
	case Tickgate:
		return built(p.Tickgate, "tickgate")
	case NetHTTP:
		return built(p.Tickload, "tickload")
	case Nginx:
		return installed("nginx", "nginx-light")
	default:
		return installed("haproxy", "haproxy")
	}
}

func built(path, name string) (string, error) {
	if path == "" {
		path = name
	}
	found, err := exec.LookPath(path)
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w (make build)", ErrMissing, name, err)
	}
	return filepath.Abs(found)
}

// installed looks in /usr/sbin too, which the PATH of a user who is not root lacks.
func installed(name, debianPackage string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath(filepath.Join("/usr/sbin", name))
	}
	if err != nil {
		return "", fmt.Errorf("%w: %s (apt-get install %s)", ErrMissing, name, debianPackage)
	}
	return path, nil
}

// versionWithin bounds how long a program may take to say its version.
const versionWithin = 10 * time.Second

// Version returns the gateway's name with its version, as in "nginx 1.22.1".
func (p Programs) Version(ctx context.Context, k Kind) (string, error) {
	path, err := p.Path(k)
	if err != nil {
		return "", err
	}
	arg := map[Kind]string{Nginx: "-v", HAProxy: "-v"}[k]
	if arg == "" {
		arg = "version"
	}
	ctx, cancel := context.WithTimeout(ctx, versionWithin)
	defer cancel()
	text, err := exec.CommandContext(ctx, path, arg).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", k, err)
	}
	return named(k, string(text)), nil
}

// named makes a name of what a program says of its version.
func named(k Kind, said string) string {
	said, _, _ = strings.Cut(strings.TrimSpace(said), "\n")
	fields := append(strings.Fields(said), "", "", "")
	switch k {
	case Nginx: // nginx version: nginx/1.22.1
		_, version, _ := strings.Cut(said, "/")
		return "nginx " + version
	case HAProxy: // HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/
		version, _, _ := strings.Cut(fields[2], "-")
		return "HAProxy " + version
	case NetHTTP: // tickload dev go1.26.8 linux/amd64
		return "net/http ReverseProxy " + fields[2]
	default: // tickgate dev go1.26.8 linux/amd64
		return "tickgate " + fields[1]
	}
}

// Setup is what a peer is started with.
type Setup struct {
	// Listen and Admin are free host:port of loopback; Admin is tickgate's own.
	Listen, Admin string
	// CertFile and KeyFile are PEM files that switch TLS on.
	CertFile, KeyFile string
	// HTTPBackend gets "/", WSBackend gets "/ws"; both are host:port without TLS.
	HTTPBackend, WSBackend string
	// Workers is the number of processes, threads or Go processors.
	Workers int
	// IdleConns is how many idle connections to the HTTP backend are kept by those whose
	// default is less than what clients use at a time.
	IdleConns int
	// MaxFDs is how many descriptors a process may open.
	MaxFDs int
	// Dir is a folder that the peer may fill.
	Dir string
}

// files of a peer within Setup.Dir.
const (
	logFile  = "peer.log"
	bothFile = "both.pem" // certificate and key in one, as HAProxy wants them
)

// Start writes the configuration, starts the gateway and waits until it listens. An error says
// what the gateway wrote.
func Start(ctx context.Context, p Programs, k Kind, s Setup) (*Process, error) {
	path, err := p.Path(k)
	if err != nil {
		return nil, err
	}
	text := s.Config(k)
	file := filepath.Join(s.Dir, configFile(k))
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make folder of %s: %w", k, err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return nil, fmt.Errorf("write configuration of %s: %w", k, err)
	}
	if err := s.extras(k); err != nil {
		return nil, err
	}
	args, env := s.commandLine(k, file)
	return Launch(ctx, Command{Name: k.String(), Path: path, Args: args, Env: env, Addr: s.Listen, Log: filepath.Join(s.Dir, logFile)})
}

// commandLine returns the arguments and the added environment of a gateway.
func (s Setup) commandLine(k Kind, file string) (args, env []string) {
	switch k {
	case Nginx:
		return []string{"-e", "stderr", "-p", s.Dir, "-c", file}, nil
	case HAProxy:
		return []string{"-db", "-f", file}, nil
	case NetHTTP:
		return []string{"baseline", "-c", file}, []string{fmt.Sprintf("GOMAXPROCS=%d", s.Workers)}
	default:
		return []string{"run", "-c", file}, []string{fmt.Sprintf("GOMAXPROCS=%d", s.Workers)}
	}
}

// extras writes what a gateway needs besides its configuration.
func (s Setup) extras(k Kind) error {
	if k != HAProxy || s.CertFile == "" {
		return nil
	}
	cert, err := os.ReadFile(s.CertFile)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	key, err := os.ReadFile(s.KeyFile)
	if err != nil {
		return fmt.Errorf("read key: %w", err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, bothFile), slices.Concat(cert, key), 0o600); err != nil {
		return fmt.Errorf("write certificate of haproxy: %w", err)
	}
	return nil
}
