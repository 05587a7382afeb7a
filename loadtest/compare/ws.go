package compare

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tickgate/loadtest/target"
	"tickgate/loadtest/wsload"
)

// wsFigures are the rows of messages over tunnels. The schedule of messages does not wait for
// answers, so latencies are judged.
var wsFigures = []figure{
	{name: cpuPerMessage, unit: "µs", judged: true, key: true},
	{name: latency50, unit: "ms", judged: true, pace: true},
	{name: latency99, unit: "ms", judged: true, pace: true},
	{name: latency999, unit: "ms"},
	{name: latency9999, unit: "ms"},
	{name: lostMessages},
	{name: failedTunnels},
	{name: cpuOfTool, unit: "µs"},
}

var plainWS = scenario{
	id: "ws", title: "WebSocket messages, plain", figures: wsFigures, measure: measureWS, seconds: wsSeconds,
	about: func(o *Options) string {
		return fmt.Sprintf("%.0f messages of %d bytes a second go to the backend over %d tunnels by a schedule, and come back as echoes, for %v. A message is one that crosses the gateway in one direction; latency is that of the way there and back, from the time it was due.", o.Messages, o.Size, o.Tunnels, o.Duration)
	},
}

var secureWS = scenario{
	id: "wss", title: "WebSocket messages, TLS clients", figures: wsFigures, measure: measureWS, seconds: wsSeconds, secure: true,
	about: func(o *Options) string {
		return fmt.Sprintf("The same with clients that speak TLS: %.0f messages a second each way over %d tunnels, %v.", o.Messages, o.Tunnels, o.Duration)
	},
}

const (
	// tunnelRate is how many tunnels are opened a second for messages.
	tunnelRate = 2000
	// tunnelsSettle is the pause between the last opening and the first message.
	tunnelsSettle = 500 * time.Millisecond
)

func wsSeconds(o *Options) float64 {
	return startSeconds + float64(o.Tunnels)/tunnelRate + (tunnelsSettle + o.Duration).Seconds()
}

// errWindow says that a run had no traffic to read CPU time around.
var errWindow = errors.New("compare: no traffic")

// measureWS is a turn of messages over tunnels.
func measureWS(ctx context.Context, t *turn) (*sample, error) {
	in, err := t.start(ctx, t.scenario.secure)
	if err != nil {
		return nil, err
	}
	var (
		began, ended cpuReading
		readings     [2]error
	)
	readings[0], readings[1] = errWindow, errWindow
	r, err := wsload.Run(ctx, wsload.Options{
		URL: in.url("ws", wsPath), Target: target.Options{Insecure: true}, Tunnels: t.Tunnels, Rate: tunnelRate,
		Mode: wsload.Echo, Messages: t.Messages, Size: t.Size, Settle: tunnelsSettle, Duration: t.Duration,
		Reached: func(s wsload.Stage) {
			switch s {
			case wsload.TrafficBegan:
				began, readings[0] = readCPU(in.PID)
			case wsload.TrafficEnded:
				ended, readings[1] = readCPU(in.PID)
			}
		},
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("load: %w", err)
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case r.Opened == 0:
		return nil, fmt.Errorf("no tunnel opened: %s", r.FirstError)
	}
	if err := errors.Join(readings[:]...); err != nil {
		return nil, err
	}
	s := newSample()
	s.cpu(cpuPerMessage, began, ended, r.Sent+r.Received)
	s.messages(r)
	return s, nil
}

// messages takes over what a run showed.
func (s *sample) messages(r *wsload.Result) {
	s.latencies(r.MessageTime)
	s.values[lostMessages] = float64(r.Unanswered + r.CutOff)
	s.values[failedTunnels] = float64(r.Failed + r.Lost())
	s.values[cpuOfTool] = r.CPUMicros
	s.curve, s.bottleneck = r.Curve, r.Bottleneck
	if !r.Flawless() {
		s.flaws = append(s.flaws, fmt.Sprintf("%d tunnels failed, %d were ended, %d messages were lost, %d corrupt, %d gaps, %d duplicates, %d reordered %s",
			r.Failed, r.Lost(), r.Unanswered+r.CutOff, r.Corrupt, r.Gaps, r.Duplicates, r.Reordered, r.FirstError))
	}
}
