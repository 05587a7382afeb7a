package compare

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"tickgate/loadtest/hold"
	"tickgate/loadtest/pace"
	"tickgate/loadtest/proc"
	"tickgate/loadtest/target"
	"tickgate/loadtest/wsload"
)

// idleKind is one kind of idle connection.
type idleKind struct {
	name           string // of its figure
	title          string // of its plot
	secure, tunnel bool
}

var idleKinds = []idleKind{
	{name: "keep-alive connection", title: "Memory with idle keep-alive connections"},
	{name: "keep-alive connection, TLS", title: "Memory with idle keep-alive connections, TLS 1.3", secure: true},
	{name: "tunnel", title: "Memory with idle WebSocket tunnels", tunnel: true},
	{name: "tunnel, TLS client", title: "Memory with idle WebSocket tunnels, TLS clients", secure: true, tunnel: true},
}

// passing is how long connections idle before a reading that is for the plot only.
const passing = time.Second

var idling = scenario{
	id: "idle", title: "Memory of idle connections", figures: idleFigures(), measure: measureIdle,
	about: func(o *Options) string {
		first, last := o.IdleCounts[0], slices.Max(o.IdleCounts)
		return fmt.Sprintf("Userland memory (PSS) of one idle connection, (PSS with %d − PSS with %d) / %d: connections had one request each, tunnels had their handshake. Each kind has a process of the gateway of its own; the four run at the same time.", last, first, last-first)
	},
	seconds: func(o *Options) float64 {
		return startSeconds*float64(len(idleKinds)) + 2*o.Settle.Seconds() + min(o.Settle, passing).Seconds()*float64(max(len(o.IdleCounts)-2, 0)) + float64(slices.Max(o.IdleCounts))/idleRate + 2
	},
}

func idleFigures() (all []figure) {
	for _, k := range idleKinds {
		all = append(all, figure{name: k.name, unit: "B", judged: true, key: true})
	}
	return append(all, figure{name: failedConnections})
}

const (
	// idleRate is how many connections of a kind are opened a second.
	idleRate = 1500
	// settleMost is how many times the settling goes on at most for memory to stand still.
	settleMost = 2
	// still is the share by which two readings a second apart may differ.
	still = 0.005
	// mostFailed is the share of connections that may be missing from a figure.
	mostFailed = 0.01
)

// measureIdle is a turn of idle connections of all kinds.
func measureIdle(ctx context.Context, t *turn) (*sample, error) {
	s := newSample()
	instances := make([]*instance, len(idleKinds))
	for i, k := range idleKinds {
		var err error
		if instances[i], err = t.start(ctx, k.secure); err != nil {
			return nil, err
		}
	}
	var (
		wg    sync.WaitGroup
		found = make([]idleFound, len(idleKinds))
	)
	for i, k := range idleKinds {
		wg.Go(func() { found[i] = t.idle(ctx, k, instances[i]) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for i, k := range idleKinds {
		f := found[i]
		s.values[failedConnections] += float64(f.failed)
		if f.err != nil {
			s.flaws = append(s.flaws, fmt.Sprintf("%s: %v", k.name, f.err))
		}
		if len(f.series) < len(t.IdleCounts) || float64(f.failed) > mostFailed*float64(slices.Max(t.IdleCounts)) {
			continue
		}
		first, last := f.series[0], f.series[len(f.series)-1]
		s.values[k.name] = float64(last.bytes-first.bytes) / float64(last.conns-first.conns)
		s.memory[k.name] = f.series
	}
	return s, nil
}

// idleFound is what connections of one kind showed.
type idleFound struct {
	series []memoryAt // as far as it came
	failed int64      // connections that did not open, or were closed
	err    error      // all that went wrong
}

// idle opens connections of one kind step by step, and reads the memory at each.
func (t *turn) idle(ctx context.Context, k idleKind, in *instance) (found idleFound) {
	var holders []*holder
	defer func() {
		for _, h := range holders {
			found.err = errors.Join(found.err, h.close())
			found.failed += h.failed
		}
	}()
	open := 0
	for i, n := range t.IdleCounts {
		h := startHolder(ctx, k, in, n-open)
		holders = append(holders, h)
		if !h.opened(ctx) {
			found.err = fmt.Errorf("open %d: %w", n, errNotOpened)
			return found
		}
		open = n
		settle := t.Settle // the figure is of the first and the last
		if i > 0 && i < len(t.IdleCounts)-1 {
			settle = min(settle, passing)
		}
		bytes, err := settled(ctx, in.PID, settle)
		if err != nil {
			found.err = err
			return found
		}
		found.series = append(found.series, memoryAt{n, bytes})
	}
	return found
}

// settled returns the memory of a gateway once it stands still, after the time it is given at the least.
func settled(ctx context.Context, pid int, least time.Duration) (int64, error) {
	deadline := time.Now().Add(settleMost * least)
	if !pace.Sleep(ctx, least) {
		return 0, context.Cause(ctx)
	}
	now, err := proc.PSS(pid)
	for err == nil && time.Now().Before(deadline) && pace.Sleep(ctx, min(least, time.Second)) {
		before := now
		now, err = proc.PSS(pid)
		if change := now - before; max(change, -change) < int64(still*float64(now)) {
			break
		}
	}
	return now, err
}

// errNotOpened says that a run of connections ended before they were open.
var errNotOpened = errors.New("compare: connections did not open")

// holder keeps connections open in a goroutine of its own.
type holder struct {
	cancel context.CancelFunc
	ready  chan struct{} // closed when all are open
	ended  chan struct{} // closed when all are closed
	failed int64         // connections; set before ended is closed
	flaws  error         // likewise
}

// startHolder begins to open n connections of a kind.
func startHolder(ctx context.Context, k idleKind, in *instance, n int) *holder {
	ctx, cancel := context.WithCancel(ctx)
	h := &holder{cancel: cancel, ready: make(chan struct{}), ended: make(chan struct{})}
	run := h.connections
	if k.tunnel {
		run = h.tunnels
	}
	go func() {
		defer close(h.ended)
		h.flaws = run(ctx, in, n)
	}()
	return h
}

// opened waits until all connections are open.
func (h *holder) opened(ctx context.Context) bool {
	select {
	case <-h.ready:
		return true
	case <-h.ended:
	case <-ctx.Done():
	}
	return false
}

// close closes the connections and tells what went wrong with them.
func (h *holder) close() error {
	h.cancel()
	<-h.ended
	return h.flaws
}

func (h *holder) connections(ctx context.Context, in *instance, n int) error {
	r, err := hold.Run(ctx, hold.Options{
		URL: in.url("http", filePath), Target: target.Options{Insecure: true}, Conns: n, Rate: idleRate,
		Opened: func() { close(h.ready) },
	})
	if err != nil {
		return err
	}
	if h.failed = r.Failed + r.ClosedByPeer; h.failed > 0 {
		return fmt.Errorf("%d of %d connections failed, %d were closed: %s", r.Failed, n, r.ClosedByPeer, r.FirstError)
	}
	return nil
}

func (h *holder) tunnels(ctx context.Context, in *instance, n int) error {
	r, err := wsload.Run(ctx, wsload.Options{
		URL: in.url("ws", wsPath), Target: target.Options{Insecure: true}, Tunnels: n, Rate: idleRate, Mode: wsload.Idle,
		Reached: func(s wsload.Stage) {
			if s == wsload.Opened {
				close(h.ready)
			}
		},
	})
	if err != nil {
		return err
	}
	if h.failed = r.Failed + r.Lost(); h.failed > 0 {
		return fmt.Errorf("%d of %d tunnels failed, %d were ended: %s", r.Failed, n, r.Lost(), r.FirstError)
	}
	return nil
}
