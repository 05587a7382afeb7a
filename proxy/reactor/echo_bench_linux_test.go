package reactor

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The benchmarks behind the choice of the way to wait: see the package comment. A
// second process drives benchConns TCP connections over the loopback; the metrics are
// of this process alone.
//
//	go test ./proxy/reactor -run '^$' -bench Echo -benchtime 30000x -count 5
//	go test ./proxy/reactor -run '^$' -bench Handoff -benchtime 2000x -count 3
//	go test ./proxy/reactor -run '^$' -bench Busy -benchtime 2000x -count 3
//	go test ./proxy/reactor -run '^$' -bench Memory
const (
	benchConns   = 1000
	benchRate    = 10000 // messages a second, when paced
	benchMessage = 200   // bytes
	benchWindow  = 64    // messages under way, when flat out

	driverVariable = "REACTOR_TEST_DRIVER"
)

func TestMain(m *testing.M) {
	if job := os.Getenv(driverVariable); job != "" {
		if err := drive(job); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// drive is the second process: it connects, says so, waits for a line, and sends.
func drive(job string) error {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	var port, conns, messages, rate int
	if _, err := fmt.Sscan(job, &port, &conns, &messages, &rate); err != nil {
		return err
	}
	d := driver{messages: messages, rate: rate}
	for range conns {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		_ = unix.SetNonblock(fd, true)
		d.fds = append(d.fds, fd)
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	err := d.paced
	if rate == 0 {
		err = d.flat
	}
	if err := err(); err != nil {
		return err
	}
	fmt.Println("done")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the other side has looked at its clocks
	return nil
}

type driver struct {
	fds            []int
	messages, rate int
	buf            [4096]byte
}

// paced sends at random times, rate a second in the mean, as independent peers do.
func (d *driver) paced() error {
	gap := float64(time.Second) / float64(d.rate)
	at, random := time.Now(), uint64(88172645463325252)
	for i := range d.messages {
		random ^= random << 13
		random ^= random >> 7
		random ^= random << 17
		at = at.Add(time.Duration(-math.Log(float64(random>>11+1)/(1<<53)) * gap))
		if wait := time.Until(at); wait > 0 {
			ts := unix.NsecToTimespec(int64(wait))
			_ = unix.Nanosleep(&ts, nil)
		}
		if err := d.exchange(d.fds[i%len(d.fds)], i >= len(d.fds)); err != nil {
			return err
		}
	}
	for i := range min(d.messages, len(d.fds)) {
		if err := d.receive(d.fds[(d.messages-1-i)%len(d.fds)]); err != nil {
			return err
		}
	}
	return nil
}

// exchange takes the answer to the message before, which is long there, and sends.
func (d *driver) exchange(fd int, answered bool) error {
	if answered {
		if err := d.receive(fd); err != nil {
			return err
		}
	}
	*(*int64)(unsafe.Pointer(&d.buf)) = monotonic()
	_, err := unix.Write(fd, d.buf[:benchMessage])
	return err
}

// monotonic is a clock that both processes read alike.
func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

func (d *driver) receive(fd int) error {
	for got := 0; got < benchMessage; {
		n, err := unix.Read(fd, d.buf[:benchMessage-got])
		switch {
		case err == unix.EAGAIN:
			_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10000)
			if err != nil && err != unix.EINTR {
				return err
			}
		case err != nil || n == 0:
			return fmt.Errorf("read %d bytes: %w", n, err)
		default:
			got += n
		}
	}
	return nil
}

// flat keeps benchWindow messages under way, going round the connections.
func (d *driver) flat() error {
	window := min(benchWindow, d.messages, len(d.fds))
	for i := range window {
		if err := d.exchange(d.fds[i], false); err != nil {
			return err
		}
	}
	for i := range d.messages {
		if err := d.receive(d.fds[i%len(d.fds)]); err != nil {
			return err
		}
		if next := i + window; next < d.messages {
			if err := d.exchange(d.fds[next%len(d.fds)], false); err != nil {
				return err
			}
		}
	}
	return nil
}

// helper is the driving process as this one sees it.
type helper struct {
	tb  testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startHelper starts the driver and returns this side's descriptors, non-blocking.
func startHelper(tb testing.TB, conns, messages, rate int) (*helper, []int) {
	tb.Helper()
	ln, port := listen(tb)
	defer unix.Close(ln)
	h := &helper{tb: tb, cmd: exec.Command(os.Args[0])}
	h.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d %d %d", driverVariable, port, conns, messages, rate))
	in, err := h.cmd.StdinPipe()
	must(tb, err)
	h.in = in
	out, err := h.cmd.StdoutPipe()
	must(tb, err)
	h.out = bufio.NewReader(out)
	must(tb, h.cmd.Start())
	var fds []int
	for range conns {
		fd, err := accept(ln)
		must(tb, err)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		fds = append(fds, fd)
	}
	h.expect("ready")
	return h, fds
}

// listen opens a blocking listener on the loopback.
func listen(tb testing.TB) (fd, port int) {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(tb, err)
	must(tb, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(tb, unix.Listen(fd, benchConns))
	// An Accept that nobody comes to fails.
	must(tb, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20}))
	name, err := unix.Getsockname(fd)
	must(tb, err)
	return fd, name.(*unix.SockaddrInet4).Port
}

// accept returns the next connection, non-blocking.
func accept(ln int) (int, error) {
	for {
		fd, _, err := unix.Accept4(ln, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func (h *helper) expect(word string) {
	h.tb.Helper()
	if line, err := h.out.ReadString('\n'); strings.TrimSpace(line) != word {
		h.tb.Fatalf("the driver says %q, %v (want %q)", line, err, word)
	}
}

// run lets the driver send, and returns the CPU time that this process took.
func (h *helper) run() time.Duration {
	before := cpuTime()
	_, err := io.WriteString(h.in, "go\n")
	must(h.tb, err)
	h.expect("done")
	return cpuTime() - before
}

func (h *helper) stop() {
	_ = h.in.Close()
	must(h.tb, h.cmd.Wait())
}

func cpuTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// rawEcho sends back what is there. It reports whether the peer is still there.
func rawEcho(fd int, buf []byte) bool {
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0, 0)
	if errno != 0 {
		return errno == unix.EAGAIN
	}
	if n == 0 {
		return false
	}
	_, _, errno = syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), n, unix.MSG_NOSIGNAL, 0, 0)
	return errno == 0
}

// variant is one way to serve connections.
type variant struct {
	name string
	// serve serves the descriptors on so many loops until the function that it returns
	// is called. ready is called on the loop's goroutine with its scratch memory.
	serve func(tb testing.TB, fds []int, loops int, ready func(fd int, buf []byte)) (stop func())
}

var variants = []variant{
	{"reactor", serveReactor},
	{"floor", bare{lock: true, wait: waitRaw}.serve},
	{"block-locked", bare{lock: true, wait: waitBlocking}.serve},
	{"block", bare{wait: waitBlocking}.serve},
	{"block-yield", bare{wait: waitBlocking, yield: true}.serve},
	{"block-locked-yield", bare{lock: true, wait: waitBlocking, yield: true}.serve},
	{"nested", bare{wait: waitNested}.serve},
	{"nested-yield", bare{wait: waitNested, yield: true}.serve},
	{"poll-block", bare{wait: waitPolling}.serve},
	{"poll-yield-poll-block", bare{wait: waitPollingYielding}.serve},
}

// bare is a loop with nothing but its way to wait.
type bare struct {
	lock, yield bool
	wait        func(e *instance) int
}

// instance is one loop of a bare.
type instance struct {
	epfd   int
	conn   syscall.RawConn // of epfd, for waitNested
	events [batch]unix.EpollEvent
}

func (e *instance) epoll(block bool) int {
	var n uintptr
	var errno syscall.Errno
	if block {
		n, _, errno = syscall.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(e.epfd), uintptr(unsafe.Pointer(&e.events)), batch, ^uintptr(0), 0, 0)
	} else {
		n, _, errno = syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(e.epfd), uintptr(unsafe.Pointer(&e.events)), batch, 0, 0, 0)
	}
	if errno != 0 {
		return 0
	}
	return int(n)
}

func waitBlocking(e *instance) int { return e.epoll(true) }

// waitRaw blocks without telling the scheduler: what a C program does, and no way for
// Go, whose garbage collector it would stop. It shows what there is to win.
func waitRaw(e *instance) int {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(e.epfd), uintptr(unsafe.Pointer(&e.events)), batch, 5, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

func waitPolling(e *instance) int {
	if n := e.epoll(false); n > 0 {
		return n
	}
	return e.epoll(true)
}

func waitPollingYielding(e *instance) int {
	if n := e.epoll(false); n > 0 {
		return n
	}
	runtime.Gosched()
	return waitPolling(e)
}

func waitNested(e *instance) (n int) {
	_ = e.conn.Read(func(uintptr) bool {
		n = e.epoll(false)
		return n > 0
	})
	return n
}

func (v bare) serve(tb testing.TB, fds []int, loops int, ready func(fd int, buf []byte)) (stop func()) {
	wakefd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	must(tb, err)
	var wg sync.WaitGroup
	for id := range loops {
		epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		must(tb, err)
		_ = unix.SetNonblock(epfd, true)
		file := os.NewFile(uintptr(epfd), "epoll")
		e := &instance{epfd: epfd}
		e.conn, err = file.SyscallConn()
		must(tb, err)
		must(tb, unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, wakefd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wakefd)}))
		for i := id; i < len(fds); i += loops {
			must(tb, unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, fds[i], &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(fds[i])}))
		}
		wg.Go(func() {
			defer file.Close()
			v.run(e, wakefd, ready)
		})
	}
	return func() {
		_, err := unix.Write(wakefd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		must(tb, err)
		wg.Wait()
		_ = unix.Close(wakefd)
	}
}

func (v bare) run(e *instance, wakefd int, ready func(fd int, buf []byte)) {
	if v.lock {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
	}
	buf := make([]byte, BufferSize)
	for {
		n := v.wait(e)
		for i := range n {
			if e.events[i].Fd == int32(wakefd) {
				return
			}
			if e.events[i].Events&unix.EPOLLIN != 0 {
				ready(int(e.events[i].Fd), buf)
			}
		}
		if v.yield {
			runtime.Gosched()
		}
	}
}

// echoHandler makes a Handler of a function; its slots are the descriptors.
type echoHandler struct {
	l     *Loop
	ready func(fd int, buf []byte)
}

func (h *echoHandler) Ready(t Token, ev Event) {
	if ev&Readable != 0 {
		h.ready(int(t.Index()), h.l.Buffer())
	}
}
func (h *echoHandler) Tick(time.Duration) {}
func (h *echoHandler) Closing()           {}

func serveReactor(tb testing.TB, fds []int, loops int, ready func(fd int, buf []byte)) (stop func()) {
	g, err := New(Options{Loops: loops})
	must(tb, err)
	g.Handle(Relay, func(l *Loop) Handler { return &echoHandler{l, ready} })
	g.Start()
	for i, fd := range fds {
		must(tb, g.Loops()[i%loops].Add(fd, MakeToken(Relay, uint32(fd), 0), EdgeBoth))
	}
	return g.Close
}

// serveGoroutines is the peer: net.Conn and a goroutine for each connection.
func serveGoroutines(tb testing.TB, fds []int) (stop func()) {
	var wg sync.WaitGroup
	var conns []net.Conn
	for _, fd := range fds {
		file := os.NewFile(uintptr(fd), "")
		c, err := net.FileConn(file)
		must(tb, err)
		_ = file.Close()
		conns = append(conns, c)
		wg.Go(func() {
			buf := make([]byte, 4096)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				if _, err := c.Write(buf[:n]); err != nil {
					return
				}
			}
		})
	}
	return func() {
		for _, c := range conns {
			_ = c.Close()
		}
		wg.Wait()
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

func BenchmarkEcho(b *testing.B) {
	for _, pace := range []struct {
		name string
		rate int
	}{{"paced", benchRate}, {"flat", 0}} {
		for _, v := range variants {
			for _, loops := range []int{1, 2} {
				b.Run(fmt.Sprintf("%s/%s/loops=%d", pace.name, v.name, loops), func(b *testing.B) {
					h, fds := startHelper(b, benchConns, b.N, pace.rate)
					defer closeAll(fds)
					stop := v.serve(b, fds, loops, func(fd int, buf []byte) { rawEcho(fd, buf) })
					defer stop()
					b.ResetTimer()
					b.ReportMetric(float64(h.run().Nanoseconds())/1e3/float64(b.N), "cpu-us/msg")
					h.stop()
				})
			}
		}
		b.Run(pace.name+"/goroutines", func(b *testing.B) {
			h, fds := startHelper(b, benchConns, b.N, pace.rate)
			stop := serveGoroutines(b, fds)
			defer stop()
			b.ResetTimer()
			b.ReportMetric(float64(h.run().Nanoseconds())/1e3/float64(b.N), "cpu-us/msg")
			h.stop()
		})
	}
}

// BenchmarkHandoff measures how long a worker goroutine that the loop readies waits
// until it runs, on an otherwise idle process: 1,000 messages a second.
func BenchmarkHandoff(b *testing.B) {
	type job struct {
		fd int
		at time.Time
	}
	for _, v := range variants {
		for _, loops := range []int{1, 2} {
			b.Run(fmt.Sprintf("%s/loops=%d", v.name, loops), func(b *testing.B) {
				h, fds := startHelper(b, benchConns, b.N, 1000)
				defer closeAll(fds)
				jobs := make(chan job, benchConns)
				waits := make([]time.Duration, b.N)
				var served atomic.Int64
				var wg sync.WaitGroup
				for range 8 {
					wg.Go(func() {
						buf := make([]byte, 4096)
						for j := range jobs {
							wait := time.Since(j.at)
							if i := served.Add(1) - 1; i < int64(b.N) {
								waits[i] = wait
							}
							rawEcho(j.fd, buf)
						}
					})
				}
				stop := v.serve(b, fds, loops, func(fd int, _ []byte) { jobs <- job{fd, time.Now()} })
				b.ResetTimer()
				cpu := h.run()
				stop()
				close(jobs)
				wg.Wait()
				slices.Sort(waits)
				b.ReportMetric(float64(waits[b.N/2].Nanoseconds())/1e3, "p50-us")
				b.ReportMetric(float64(waits[b.N*99/100].Nanoseconds())/1e3, "p99-us")
				b.ReportMetric(float64(cpu.Nanoseconds())/1e3/float64(b.N), "cpu-us/msg")
				h.stop()
			})
		}
	}
}

// BenchmarkBusy measures how long a message waits until the loop has read it while
// goroutines keep all processors busy, 20 us at a time: 1,000 messages a second.
func BenchmarkBusy(b *testing.B) {
	for _, v := range variants {
		b.Run(v.name+"/loops=2", func(b *testing.B) {
			h, fds := startHelper(b, benchConns, b.N, 1000)
			defer closeAll(fds)
			var over atomic.Bool
			var busy sync.WaitGroup
			for range 2 * runtime.GOMAXPROCS(0) {
				busy.Go(func() {
					for !over.Load() {
						for begin := time.Now(); time.Since(begin) < 20*time.Microsecond; {
						}
						runtime.Gosched()
					}
				})
			}
			waits := make([]time.Duration, b.N)
			var served atomic.Int64
			stop := v.serve(b, fds, 2, func(fd int, buf []byte) {
				if rawEcho(fd, buf) {
					if i := served.Add(1) - 1; i < int64(b.N) {
						waits[i] = time.Duration(monotonic() - *(*int64)(unsafe.Pointer(&buf[0])))
					}
				}
			})
			b.ResetTimer()
			h.run()
			over.Store(true)
			stop()
			busy.Wait()
			slices.Sort(waits)
			b.ReportMetric(float64(waits[b.N/2].Nanoseconds())/1e3, "p50-us")
			b.ReportMetric(float64(waits[b.N*99/100].Nanoseconds())/1e3, "p99-us")
			h.stop()
		})
	}
}

// BenchmarkMemory measures what an idle, registered descriptor costs in userland: the
// heap and the stacks, nothing of the kernel's.
func BenchmarkMemory(b *testing.B) {
	f := func(name string, serve func(fds []int) (stop func())) {
		b.Run(name, func(b *testing.B) {
			h, fds := startHelper(b, benchConns, 1, 1)
			before := memoryInUse()
			stop := serve(fds)
			b.ReportMetric(float64(memoryInUse()-before)/benchConns, "B/conn")
			h.run()
			stop()
			h.stop()
		})
	}
	f("reactor", func(fds []int) (stop func()) {
		end := serveReactor(b, fds, 2, func(fd int, buf []byte) { rawEcho(fd, buf) })
		return func() { end(); closeAll(fds) }
	})
	f("goroutines", func(fds []int) (stop func()) { return serveGoroutines(b, fds) })
}

func memoryInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
