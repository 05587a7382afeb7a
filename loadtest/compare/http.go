package compare

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"tickgate/loadtest/httpload"
	"tickgate/loadtest/pace"
	"tickgate/loadtest/proc"
	"tickgate/loadtest/target"
)

// closedFigures are the rows of the closed loop. Its latencies are shown and not judged: at full
// speed they follow from the requests a second, and a server that stalls is not charged for what was
// not sent meanwhile.
var closedFigures = []figure{
	{name: cpuPerRequest, unit: "µs", judged: true, key: true},
	{name: requestsASecond, unit: "1/s", higher: true, judged: true, pace: true},
	{name: memoryUnderLoad, unit: "MiB", judged: true},
	{name: latency50, unit: "ms"},
	{name: latency99, unit: "ms"},
	{name: latency999, unit: "ms"},
	{name: latency9999, unit: "ms"},
	{name: failedRequests},
	{name: cpuOfTool, unit: "µs"},
}

var plainHTTP = scenario{
	id: "http", title: "HTTP requests, plain", main: true, figures: closedFigures, measure: measureHTTP, seconds: httpSeconds,
	about: func(o *Options) string {
		return fmt.Sprintf("Closed loop: %d kept connections ask for 1 KiB as fast as they are answered, for %v. Load, gateway and backend share the processors, so requests a second are no capacity.", o.Conns, o.Duration)
	},
}

var secureHTTP = scenario{
	id: "https", title: "HTTP requests, TLS 1.3", figures: closedFigures, measure: measureHTTP, seconds: httpSeconds, secure: true,
	about: func(o *Options) string {
		return fmt.Sprintf("The same with clients that speak TLS 1.3: %d kept connections, %v.", o.Conns, o.Duration)
	},
}

var openLoop = scenario{
	id: "open", title: "Latency at a fixed rate", measure: measureHTTP, seconds: httpSeconds, open: true,
	about: func(o *Options) string {
		return fmt.Sprintf("Open loop: %.0f requests a second, evenly spaced, whatever the gateway does, over at most %d connections for %v. Latency counts from the time a request was due.", o.Rate, o.Conns, o.Duration)
	},
	figures: []figure{
		{name: latency50, unit: "ms", judged: true, pace: true},
		{name: latency99, unit: "ms", judged: true, pace: true, key: true},
		{name: latency999, unit: "ms", judged: true, pace: true},
		{name: latency9999, unit: "ms"},
		{name: cpuPerRequest, unit: "µs", judged: true},
		{name: requestsASecond, unit: "1/s", higher: true},
		{name: lateSends, unit: "ms"},
		{name: failedRequests},
		{name: cpuOfTool, unit: "µs"},
	},
}

func httpSeconds(o *Options) float64 { return startSeconds + (o.Warmup + o.Duration).Seconds() }

// measureHTTP is a turn of the closed loop, or of the open one.
func measureHTTP(ctx context.Context, t *turn) (*sample, error) {
	in, err := t.start(ctx, t.scenario.secure)
	if err != nil {
		return nil, err
	}
	o := httpload.Options{URL: in.url("http", filePath), Target: target.Options{Insecure: true}, Conns: t.Conns, Duration: t.Warmup}
	if err := checkAnswer(ctx, o.URL); err != nil {
		return nil, err
	}
	if _, err := httpload.Run(ctx, o); err != nil {
		return nil, fmt.Errorf("warm up: %w", err)
	}
	o.Duration = t.Duration
	if t.scenario.open {
		o.Plan = pace.Constant(t.Rate, t.Duration)
	}
	s := newSample()
	memory := t.memoryAtHalf(ctx, in.PID)
	began, err := readCPU(in.PID)
	if err != nil {
		return nil, err
	}
	r, err := httpload.Run(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	ended, err := readCPU(in.PID)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	s.cpu(cpuPerRequest, began, ended, r.Sent)
	s.requests(r)
	if bytes := memory(); bytes > 0 {
		s.values[memoryUnderLoad] = float64(bytes) / bytesInAMebibyte
	}
	return s, nil
}

// requests takes over what a run showed.
func (s *sample) requests(r *httpload.Result) {
	s.values[requestsASecond] = r.OKPerSecond
	s.values[failedRequests] = float64(r.Failed())
	s.values[lateSends] = r.SendLag.P99 / 1e3
	s.latencies(r.Latency)
	if r.Sent > 0 {
		s.values[cpuOfTool] = r.CPUSeconds * microsecond / float64(r.Sent)
	}
	s.curve, s.bottleneck = r.Curve, r.Bottleneck
	whole := int(r.Seconds + 0.05) // what is left of a second would look slow
	for i, second := range r.PerSecond {
		if i < whole {
			s.perSecond = append(s.perSecond, float64(second.OK))
		}
	}
	if failed := r.Failed(); failed > 0 {
		s.flaws = append(s.flaws, fmt.Sprintf("%d of %d requests failed %v: %s", failed, r.Sent, r.Errors, r.FirstError))
	}
}

// memoryAtHalf reads the memory of a gateway in the middle of the measured window that begins now. The
// function that it returns waits for that; it returns 0 if there was none to read.
func (t *turn) memoryAtHalf(ctx context.Context, pid int) func() int64 {
	var (
		wg    sync.WaitGroup
		bytes int64
	)
	wg.Go(func() {
		if pace.Sleep(ctx, t.Duration/2) {
			bytes, _ = proc.PSS(pid) // a gap says enough
		}
	})
	return func() int64 { wg.Wait(); return bytes }
}

const (
	// filePath is what is asked for, and fileSize how long it is.
	filePath = "/1k"
	fileSize = 1024
	// answersWithin bounds the first request to a gateway.
	answersWithin = 10 * time.Second
)

// errWrongAnswer says that a gateway answers something else than the backend.
var errWrongAnswer = errors.New("compare: wrong answer")

// checkAnswer demands the right answer before anything is measured.
func checkAnswer(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, answersWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("first request: %w", err)
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // our own, made for this run
	}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("first request: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	n, err := io.Copy(io.Discard, io.LimitReader(resp.Body, fileSize+1))
	switch {
	case err != nil:
		return fmt.Errorf("first response: %w", err)
	case resp.StatusCode != http.StatusOK || n != fileSize:
		return fmt.Errorf("%w: status %d with %d bytes (want 200 with %d)", errWrongAnswer, resp.StatusCode, n, fileSize)
	}
	return nil
}
