package peer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tickgate/loadtest/pace"
)

const (
	// startsWithin is how long a process may take to listen.
	startsWithin = 15 * time.Second
	// stopsWithin is the default of Command.Grace.
	stopsWithin = 5 * time.Second
	// lookEvery is how often a process is asked whether it listens.
	lookEvery = 20 * time.Millisecond
	// mostLog is how much of the end of a log an error shows.
	mostLog = 2 << 10
)

// ErrNotStarted is returned for a process that does not come to listen.
var ErrNotStarted = errors.New("peer: process does not start")

// ErrEnded is returned for a process that ended before it was told to.
var ErrEnded = errors.New("peer: process ended by itself")

// Command is a process to start.
type Command struct {
	Name string // for errors
	Path string
	Args []string
	Env  []string // added to this process's own
	Addr string   // host:port that it will listen on
	Log  string   // file for what it writes
	// Grace is how long it may take to end once it was told to; then it is killed. 0 is five seconds.
	Grace time.Duration
}

// Process is a process that listens. Its methods are for one goroutine.
type Process struct {
	// PID is the id of the process that was started, whose group has the same.
	PID int

	cmd   Command
	ended chan struct{} // closed when the process has ended and was waited for
	err   error         // how; set before ended is closed
}

// Launch starts a process in a group of its own and waits until it listens. When it returns an error, the
// process is gone.
func Launch(ctx context.Context, c Command) (*Process, error) {
	if err := free(ctx, c.Addr); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNotStarted, c.Name, err)
	}
	log, err := os.Create(c.Log)
	if err != nil {
		return nil, fmt.Errorf("make log of %s: %w", c.Name, err)
	}
	defer func() { _ = log.Close() }() // the process has its own
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNotStarted, c.Name, err)
	}
	p := &Process{PID: cmd.Process.Pid, cmd: c, ended: make(chan struct{})}
	go p.wait(cmd)
	if err := p.awaitListening(ctx); err != nil {
		_ = p.Stop()
		return nil, err
	}
	return p, nil
}

// free demands that nobody listens on an address, who would be taken for the process.
func free(ctx context.Context, addr string) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return ln.Close()
}

// wait is the goroutine that waits for the process.
func (p *Process) wait(cmd *exec.Cmd) {
	p.err = cmd.Wait()
	close(p.ended)
}

func (p *Process) awaitListening(ctx context.Context) error {
	within, cancel := context.WithTimeout(ctx, startsWithin)
	defer cancel()
	var d net.Dialer
	for {
		conn, err := d.DialContext(within, "tcp", p.cmd.Addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%w: %s: %v%s", ErrNotStarted, p.cmd.Name, p.outcome(), p.said())
		default:
		}
		if !pace.Sleep(within, lookEvery) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("%w: %s does not listen on %s within %v%s", ErrNotStarted, p.cmd.Name, p.cmd.Addr, startsWithin, p.said())
		}
	}
}

// outcome says how the process has ended.
func (p *Process) outcome() string {
	if p.err == nil {
		return "exit status 0"
	}
	return p.err.Error()
}

// said returns the end of the log, for the end of an error.
func (p *Process) said() string {
	f, err := os.Open(p.cmd.Log)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-mostLog), io.SeekStart)
	}
	b, _ := io.ReadAll(io.LimitReader(f, mostLog))
	if text := strings.TrimSpace(string(b)); text != "" {
		return ": " + text
	}
	return ""
}

// Stop tells the process to end, and kills what is left of its group once its grace is over. It
// returns an error that wraps ErrEnded if the process had ended before. Further calls do nothing.
func (p *Process) Stop() error {
	if p.PID == 0 {
		return nil
	}
	pid := p.PID
	p.PID = 0
	select {
	case <-p.ended:
		_ = syscall.Kill(-pid, syscall.SIGKILL) // workers without their master
		return fmt.Errorf("%w: %s: %s%s", ErrEnded, p.cmd.Name, p.outcome(), p.said())
	default:
	}
	_ = syscall.Kill(pid, syscall.SIGTERM)
	timer := time.NewTimer(cmp.Or(p.cmd.Grace, stopsWithin))
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	<-p.ended
	return nil
}

// FreePorts returns n ports of 127.0.0.1 on which nobody listens, from one on upwards. Choose them below
// net.ipv4.ip_local_port_range, from which outgoing connections take theirs.
func FreePorts(ctx context.Context, from, n int) ([]int, error) {
	const last = 65535
	var ports []int
	for port := from; len(ports) < n; port++ {
		if port > last {
			return nil, fmt.Errorf("peer: no %d free ports from %d on", n, from)
		}
		if free(ctx, net.JoinHostPort("127.0.0.1", strconv.Itoa(port))) == nil {
			ports = append(ports, port)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return ports, nil
}
