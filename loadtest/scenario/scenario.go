// Package scenario is the file that describes an HTTP load: what is sent, in which
// proportions, and when. It is YAML, decoded as strictly as the gateway's configuration.
package scenario

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"tickgate/config"
	"tickgate/internal/unit"
	"tickgate/loadtest/httpload"
	"tickgate/loadtest/pace"
	"tickgate/loadtest/target"
)

// Scenario is one file. It is not changed after Load.
type Scenario struct {
	// Target, http:// or https://. A flag may take its place, so it may be missing.
	URL string `yaml:"url"`
	// What is sent; without it one GET of the URL.
	Mix []Request `yaml:"mix"`
	// When requests are due, phase after phase: the open loop. Without it, the closed loop.
	Plan []Phase `yaml:"plan"`
	// Requests of the plan come independently of each other, as those of many users do, instead of evenly.
	Poisson bool `yaml:"poisson" default:"false"`
	// Connections: kept busy in the closed loop, at most open at a time in the open loop.
	Connections int `yaml:"connections" default:"64" min:"1" max:"1000000"`
	// Length of the run; 0 is the plan's, or until a signal.
	Duration time.Duration `yaml:"duration" default:"0s" min:"0s"`
	// First part of the run, which does not count.
	Warmup time.Duration `yaml:"warmup" default:"0s" min:"0s"`
	// Longest wait for a response.
	Timeout time.Duration `yaml:"timeout" default:"10s" min:"1ms"`
	// Requests of a connection before it is closed and opened anew; 0 is no limit.
	PerConn int `yaml:"per_connection" default:"0" min:"0"`
	// How to connect.
	Connect Connect `yaml:"connect"`
	// Seed of the order of the mix, the arrivals and the think times.
	Seed int `yaml:"seed" default:"0" min:"0"`
}

// Connect says how to connect.
type Connect struct {
	// Loopback addresses to connect from, from 127.0.0.2 on; 0 leaves it to the system.
	Sources int `yaml:"sources" default:"0" min:"0" max:"60000"`
	// Do not verify the server's certificate.
	Insecure bool `yaml:"insecure" default:"false"`
	// Longest wait for a connection and its TLS handshake.
	Timeout time.Duration `yaml:"timeout" default:"10s" min:"1ms"`
	// Share of new TLS connections that try to resume a session.
	ResumePercent int `yaml:"resume_percent" default:"0" min:"0" max:"100"`
}

// Request is one kind of request.
type Request struct {
	// Name in results; "" is the method and the path.
	Name string `yaml:"name"`
	// Share among the mix.
	Weight int `yaml:"weight" default:"1" min:"1" max:"1000000"`
	// Request method.
	Method string `yaml:"method" default:"GET"`
	// Path and query as they are sent; "" is the URL's.
	Path string `yaml:"path"`
	// Header fields, each "Name: value".
	Headers []string `yaml:"headers"`
	// Text of the body.
	Body string `yaml:"body"`
	// Size of a body of filler, in place of a text.
	BodySize unit.Size `yaml:"body_size" default:"0B" min:"0B" max:"64MiB"`
	// Pause behind the response, on average; in the closed loop only.
	Think time.Duration `yaml:"think" default:"0s" min:"0s"`
	// Status wanted; 0 is any below 400.
	Expect int `yaml:"expect" default:"0" min:"0" max:"599"`
}

// Phase is a stretch of the plan: a rate, or one that changes evenly from one to another.
type Phase struct {
	// Requests a second.
	Rate int `yaml:"rate" default:"0" min:"0" max:"10000000"`
	// Requests a second at the beginning, in place of rate.
	From int `yaml:"from" default:"0" min:"0" max:"10000000"`
	// Requests a second at the end, in place of rate.
	To int `yaml:"to" default:"0" min:"0" max:"10000000"`
	// Length.
	For time.Duration `yaml:"for" required:"true" min:"1ms"`
}

// Load reads a file. The scenario is of use only if the report holds no errors.
func Load(path string) (*Scenario, *config.Report) {
	s := new(Scenario)
	return s, config.DecodeFile(path, s, s.check)
}

// Parse is Load for text that is at hand.
func Parse(name string, text []byte) (*Scenario, *config.Report) {
	s := new(Scenario)
	return s, config.Decode(name, text, s, s.check)
}

// check looks for what the tags cannot say.
func (s *Scenario) check(wrong func(keyPath, seen, want string)) {
	for i, r := range s.Mix {
		at := fmt.Sprintf("mix[%d].", i)
		for k, line := range r.Headers {
			if _, ok := field(line); !ok {
				wrong(fmt.Sprintf("%sheaders[%d]", at, k), line, `"Name: value"`)
			}
		}
		if r.Body != "" && r.BodySize > 0 {
			wrong(at+"body_size", "both a body and a body_size", "one of them")
		}
		if r.Expect != 0 && r.Expect < 200 {
			wrong(at+"expect", fmt.Sprint(r.Expect), "0, or 200 to 599")
		}
	}
	for i, p := range s.Plan {
		if p.Rate > 0 && p.From+p.To > 0 {
			wrong(fmt.Sprintf("plan[%d].rate", i), "a rate beside from and to", "either")
		}
	}
	if plan := s.plan(); plan != nil && plan.Check() != nil {
		wrong("plan", "no requests", "a rate above 0 in one phase at least")
	}
}

// field splits a header line.
func field(line string) (f httpload.Field, ok bool) {
	name, value, ok := strings.Cut(line, ":")
	return httpload.Field{Name: name, Value: strings.TrimSpace(value)}, ok && name != "" && !strings.ContainsAny(line, "\r\n") && !strings.ContainsAny(name, " \t")
}

func (s *Scenario) plan() *pace.Plan {
	if len(s.Plan) == 0 {
		return nil
	}
	plan := &pace.Plan{Poisson: s.Poisson, Seed: uint64(s.Seed)}
	for _, p := range s.Plan {
		from, to := p.From, p.To
		if p.Rate > 0 {
			from, to = p.Rate, p.Rate
		}
		plan.Phases = append(plan.Phases, pace.Phase{From: float64(from), To: float64(to), For: p.For})
	}
	return plan
}

// Options returns the scenario as the options of a run.
func (s *Scenario) Options() httpload.Options {
	o := httpload.Options{
		URL:  s.URL,
		Plan: s.plan(), Conns: s.Connections, Duration: s.Duration, Warmup: s.Warmup, Timeout: s.Timeout,
		PerConn: s.PerConn, ResumePercent: s.Connect.ResumePercent, Seed: uint64(s.Seed),
		Target: target.Options{Sources: s.Connect.Sources, Insecure: s.Connect.Insecure, Timeout: s.Connect.Timeout},
	}
	for _, r := range s.Mix {
		o.Mix = append(o.Mix, r.request())
	}
	return o
}

func (r *Request) request() httpload.Request {
	out := httpload.Request{
		Name: r.Name, Weight: r.Weight, Method: r.Method, Path: r.Path, Body: []byte(r.Body), Think: r.Think, Expect: r.Expect,
	}
	if r.BodySize > 0 {
		out.Body = bytes.Repeat([]byte("x"), int(r.BodySize))
	}
	for _, line := range r.Headers {
		f, _ := field(line) // check has looked
		out.Header = append(out.Header, f)
	}
	return out
}
