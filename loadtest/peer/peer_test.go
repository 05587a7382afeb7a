package peer

import (
	"context"
	"errors"
	"flag"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tickgate/config"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
	"tickgate/loadtest/baseline"
	"tickgate/loadtest/pace"
	"tickgate/loadtest/proc"
)

var update = flag.Bool("update", false, "rewrite the golden files of testdata")

// actAs makes the test binary one of the processes of these tests.
const actAs = "PEER_TEST_ACT_AS"

func TestMain(m *testing.M) {
	switch os.Getenv(actAs) {
	case "":
		os.Exit(m.Run())
	case "gateway":
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		g, err := baseline.Load(os.Args[len(os.Args)-1])
		if err == nil {
			err = g.Serve(ctx, func(net.Addr) error { return nil })
		}
		if err != nil {
			println(err.Error())
			os.Exit(1)
		}
	case "stubborn": // takes no TERM, and has a child that does not either
		signal.Ignore(syscall.SIGTERM)
		if addr := os.Args[1]; addr != "child" {
			ln, err := net.Listen("tcp", addr)
			if err == nil {
				err = exec.Command(os.Args[0], "child").Start()
			}
			if err != nil {
				println(err.Error())
				os.Exit(1)
			}
			defer func() { _ = ln.Close() }()
		}
		pace.Sleep(context.Background(), time.Minute)
	case "failing":
		println("no way")
		os.Exit(3)
	case "deaf":
		signal.Ignore(syscall.SIGINT)
		pace.Sleep(context.Background(), time.Minute)
	}
}

// address returns a free host:port of loopback.
func address(t *testing.T) string {
	t.Helper()
	ports, err := FreePorts(t.Context(), 22900, 1)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0]))
}

// command runs this test binary as a process of these tests.
func command(t *testing.T, role string) Command {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	addr := address(t)
	return Command{
		Name: role, Path: self, Args: []string{addr}, Env: []string{actAs + "=" + role}, Addr: addr,
		Log: filepath.Join(t.TempDir(), "log"), Grace: 100 * time.Millisecond,
	}
}

func TestConfigurations(t *testing.T) {
	plain := Setup{
		Listen: "127.0.0.1:1001", Admin: "127.0.0.1:1002", HTTPBackend: "127.0.0.1:1003", WSBackend: "127.0.0.1:1004",
		Workers: 2, IdleConns: 128, MaxFDs: 20000, Dir: "/var/compare/peer",
	}
	secure := plain
	secure.CertFile, secure.KeyFile = "/var/compare/cert.pem", "/var/compare/key.pem"
	// f compares a configuration with a file.
	f := func(k Kind, s Setup, variant string) {
		t.Helper()
		name := filepath.Join("testdata", k.String()+"-"+variant)
		got := strings.Replace(s.Config(k), "user root;\n", "", 1) // root's alone
		if *update {
			if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil || got != string(want) {
			t.Errorf("%s: %v, got\n%s", name, err, got)
		}
	}
	for _, k := range Kinds {
		f(k, plain, "plain")
		f(k, secure, "tls")
	}
}

// What is written for tickgate and the baseline is what they take.
func TestConfigurationIsValid(t *testing.T) {
	pair := testcert.New(t, "localhost")
	s := Setup{Listen: "127.0.0.1:1001", Admin: "127.0.0.1:1002", HTTPBackend: "127.0.0.1:1003", WSBackend: "127.0.0.1:1004", Workers: 2, IdleConns: 1}
	s.CertFile, s.KeyFile = pair.Files(t)
	if _, report := config.Parse("gate.yaml", []byte(s.Config(Tickgate))); report.Err() != nil {
		t.Error(report.Err())
	}
	file := filepath.Join(t.TempDir(), "gate.yaml")
	if err := os.WriteFile(file, []byte(s.Config(NetHTTP)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := baseline.Load(file); err != nil {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	f := func(k Kind, said, want string) {
		t.Helper()
		if got := named(k, said); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if back, err := Parse(k.String()); err != nil || back != k {
			t.Errorf("%v parses as %v, %v", k, back, err)
		}
	}
	f(Nginx, "nginx version: nginx/1.22.1\n", "nginx 1.22.1")
	f(HAProxy, "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\nStatus: long-term\n", "HAProxy 2.6.12")
	f(NetHTTP, "tickload dev go1.26.8 linux/amd64", "net/http ReverseProxy go1.26.8")
	f(Tickgate, "tickgate v1 go1.26.8 linux/amd64", "tickgate v1")
	f(HAProxy, "", "HAProxy ")
	if _, err := Parse("apache"); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "[tickgate nginx haproxy nethttp]") {
		t.Error(err)
	}
}

func TestMissing(t *testing.T) {
	p := Programs{Tickgate: "/no/such/tickgate", Tickload: "/no/such/tickload"}
	f := func(k Kind, want string) {
		t.Helper()
		if err := p.Installed(k); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want ErrMissing with %q", err, want)
		}
		if _, err := Start(t.Context(), p, k, Setup{}); !errors.Is(err, ErrMissing) {
			t.Errorf("start: %v", err)
		}
		if _, err := p.Version(t.Context(), k); !errors.Is(err, ErrMissing) {
			t.Errorf("version: %v", err)
		}
	}
	f(Tickgate, "make build")
	f(NetHTTP, "make build")
	if _, err := installed("no-such-program", "its-package"); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "apt-get install its-package") {
		t.Error(err)
	}
}

// A peer is started from its setup, serves and ends on TERM.
func TestStart(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(actAs, "gateway")
	pair := testcert.New(t, "localhost")
	backend := testkit.NewRecorder(t, nil)
	s := Setup{Listen: address(t), Admin: "127.0.0.1:1", HTTPBackend: backend.Addr(), WSBackend: backend.Addr(), Workers: 1, IdleConns: 1, Dir: filepath.Join(t.TempDir(), "new")}
	s.CertFile, s.KeyFile = pair.Files(t)
	p, err := Start(t.Context(), Programs{Tickload: self}, NetHTTP, s)
	if err != nil {
		t.Fatal(err)
	}
	c := testkit.DialTLS(t, s.Listen, pair.ClientTLS("localhost"))
	if resp := c.Do("GET / HTTP/1.1\r\nHost: a\r\n\r\n"); resp.Status != 200 {
		t.Errorf("status %d", resp.Status)
	}
	c.Close()
	pid := p.PID
	if err := errors.Join(p.Stop(), p.Stop()); err != nil {
		t.Error(err)
	}
	if _, err := proc.Family(pid); !errors.Is(err, proc.ErrGone) {
		t.Errorf("the process is still there: %v", err)
	}
	if err := s.extras(HAProxy); err != nil {
		t.Error(err)
	}
	if both, err := os.ReadFile(filepath.Join(s.Dir, bothFile)); err != nil || strings.Count(string(both), "-----BEGIN") != 2 {
		t.Errorf("%v: %s", err, both)
	}
}

// What does not end on TERM is killed with its children.
func TestStopKillsTheGroup(t *testing.T) {
	p, err := Launch(t.Context(), command(t, "stubborn"))
	if err != nil {
		t.Fatal(err)
	}
	family := testFamily(t, p.PID, 2)
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	for _, pid := range family {
		for !gone(pid) {
			if !pace.Sleep(t.Context(), 10*time.Millisecond) {
				t.Fatalf("process %d is still there", pid)
			}
		}
	}
}

// testFamily waits until a process has n members in its family.
func testFamily(t *testing.T, pid, n int) []int {
	t.Helper()
	for {
		family, err := proc.Family(pid)
		if err != nil {
			t.Fatal(err)
		}
		if len(family) == n {
			return family
		}
		if !pace.Sleep(t.Context(), 10*time.Millisecond) {
			t.Fatalf("family %v, want %d", family, n)
		}
	}
}

// gone says that a process has ended, though nobody may have waited for it yet.
func gone(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func TestLaunchErrors(t *testing.T) {
	failing := command(t, "failing")
	if _, err := Launch(t.Context(), failing); !errors.Is(err, ErrNotStarted) || !strings.Contains(err.Error(), "exit status 3: no way") {
		t.Errorf("one that fails: %v", err)
	}
	deaf := command(t, "deaf")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := Launch(ctx, deaf); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one that never listens: %v", err)
	}
	taken, err := net.Listen("tcp", address(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	deaf.Addr = taken.Addr().String()
	if _, err := Launch(t.Context(), deaf); !errors.Is(err, ErrNotStarted) || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("an address that is taken: %v", err)
	}
	deaf.Addr, deaf.Path = address(t), "/no/such/program"
	if _, err := Launch(t.Context(), deaf); !errors.Is(err, ErrNotStarted) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no program: %v", err)
	}
	deaf.Log = "/no/such/folder/log"
	if _, err := Launch(t.Context(), deaf); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no log: %v", err)
	}
}

// A process that ends by itself says so when it is stopped.
func TestStopAfterTheEnd(t *testing.T) {
	p, err := Launch(t.Context(), command(t, "stubborn"))
	if err != nil {
		t.Fatal(err)
	}
	family := testFamily(t, p.PID, 2)
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.ended
	if err := p.Stop(); !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("%v, want ErrEnded", err)
	}
	for !gone(family[1]) {
		if !pace.Sleep(t.Context(), 10*time.Millisecond) {
			t.Fatal("the child is still there")
		}
	}
}

func TestFreePorts(t *testing.T) {
	ports, err := FreePorts(t.Context(), 22950, 2)
	if err != nil || len(ports) != 2 || ports[1] <= ports[0] {
		t.Fatal(ports, err)
	}
	if _, err := FreePorts(t.Context(), 65536, 1); err == nil {
		t.Error("a port above the last")
	}
}
