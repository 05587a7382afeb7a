package gctune

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"time"
)

// idleConn is as heavy for a collection as an idle TLS connection: 6 KB in seven objects.
type idleConn struct {
	state   [900]byte
	in, out *[1792]byte
	hand    []byte
	name    *string
	next    *idleConn
	extra   []*[128]byte
}

func newIdleConn(next *idleConn) *idleConn {
	name := "client.example" + strconv.Itoa(os.Getpid())
	c := &idleConn{
		in: new([1792]byte), out: new([1792]byte), hand: make([]byte, 1024), name: &name, next: next,
		extra: []*[128]byte{new([128]byte), new([128]byte)},
	}
	// Memory that nobody wrote to takes none from the system.
	for i := range c.in {
		c.in[i], c.out[i], c.state[i%len(c.state)] = byte(i), byte(i), byte(i)
	}
	for i := range c.hand {
		c.hand[i] = byte(i)
	}
	return c
}

// pss returns the memory of this process in bytes, what is shared counted in part.
func pss(b *testing.B) float64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		b.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte("Pss:")); ok {
			n, err := strconv.Atoi(string(bytes.Fields(rest)[0]))
			if err != nil {
				b.Fatal(err)
			}
			return float64(n) * 1024
		}
	}
	b.Fatal("no Pss in smaps_rollup")
	return 0
}

var sink []byte

// allocate makes garbage of 1 KB pieces at the rate, in bytes a second, and returns the largest and the
// mean PSS meanwhile.
func allocate(b *testing.B, rate int, d time.Duration) (peak, mean float64) {
	const step = 10 * time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	steps, looks := int(d/step), 0
	for i := range steps {
		<-tick.C
		for range rate / 1024 / int(time.Second/step) {
			sink = make([]byte, 1024)
		}
		if i%10 == 0 {
			now := pss(b)
			peak, mean, looks = max(peak, now), mean+now, looks+1
		}
	}
	return peak, mean / float64(looks)
}

// BenchmarkIdleHeap measures what the package documentation says. Each line wants a process
// of its own:
//
//	go test ./internal/gctune -run NONE -benchtime 1x -bench 'IdleHeap/20000/default'
func BenchmarkIdleHeap(b *testing.B) {
	f := func(conns int, name string, o *Options) {
		b.Run(strconv.Itoa(conns)+"/"+name, func(b *testing.B) {
			debug.FreeOSMemory()
			if o != nil {
				t := New(*o)
				defer t.Close()
			}
			var first *idleConn
			for range conns {
				first = newIdleConn(first)
			}
			runtime.GC()
			allocate(b, 50<<20, 3*time.Second) // the settings settle
			rt := newRuntime()
			runtime.GC()
			before := rt.read()
			const lasts = 20 * time.Second
			peak, mean := allocate(b, 50<<20, lasts)
			runtime.GC() // brings the CPU figures up to date; one collection more for each side
			after := rt.read()
			b.ReportMetric(peak/1e6, "peak-pss-MB")
			b.ReportMetric(mean/1e6, "mean-pss-MB")
			b.ReportMetric((after.GCCPU-before.GCCPU)*1000/lasts.Seconds(), "gc-cpu-ms/s")
			b.ReportMetric(float64(after.Cycles-before.Cycles)/lasts.Seconds(), "cycles/s")
			b.ReportMetric(float64(after.GOGC), "GOGC")
			b.ReportMetric(0, "ns/op")
			runtime.KeepAlive(first)
		})
	}
	for _, conns := range []int{0, 20_000} {
		f(conns, "default", nil)
		f(conns, "adaptive", &Options{Adaptive: true, MinHeadroom: 4 << 20, MaxHeadroom: 64 << 20, Headroom: 20})
		f(conns, "headroom50", &Options{Adaptive: true, MinHeadroom: 4 << 20, MaxHeadroom: 64 << 20, Headroom: 50})
	}
}

// BenchmarkRelease measures how soon memory is back after most of the heap has died: under traffic, and
// without any after the collection that the runtime makes every two minutes. Each line wants a
// process of its own.
func BenchmarkRelease(b *testing.B) {
	f := func(name string, tuned bool, rate int) {
		b.Run(name, func(b *testing.B) {
			debug.FreeOSMemory()
			if tuned {
				t := New(Options{Adaptive: true, MinHeadroom: 4 << 20, MaxHeadroom: 64 << 20, Headroom: 20})
				defer t.Close()
			}
			var first *idleConn
			for range 60_000 {
				first = newIdleConn(first)
			}
			runtime.GC()
			b.ReportMetric(pss(b)/1e6, "MB-full")
			runtime.KeepAlive(first)
			first = nil
			if rate == 0 {
				runtime.GC()
			}
			passed := 0
			for _, seconds := range []int{1, 2, 4, 8, 16} {
				_, _ = allocate(b, rate, time.Duration(seconds-passed)*time.Second)
				passed = seconds
				b.ReportMetric(pss(b)/1e6, fmt.Sprintf("MB-%02ds", seconds))
			}
			s := newRuntime().read()
			b.ReportMetric(float64(s.PauseMax.Microseconds())/1000, "max-pause-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
	f("busy-default", false, 50<<20)
	f("busy-tuned", true, 50<<20)
	f("idle-default", false, 0)
	f("idle-tuned", true, 0)
}

// BenchmarkLook measures what an idle process is charged once a second.
func BenchmarkLook(b *testing.B) {
	rt := newRuntime()
	b.ReportAllocs()
	for b.Loop() {
		rt.look()
	}
}
