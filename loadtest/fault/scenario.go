package fault

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"tickgate/config"
	"tickgate/internal/unit"
	"tickgate/loadtest/fault/dnsflip"
	"tickgate/loadtest/fault/probe"
)

// Scenario is a file of `tickload faults`: what is started, the load, and the steps.
//
// Texts may hold ${NAME} for addresses that are only known once things run, which a file
// writes $${NAME}, since ${NAME} is the environment's there: PROXY_A for the proxy "a" and
// BACKEND_A for the built-in backend "a" (host:port; dashes become underscores), DNS (host:port
// of the name server), CA_FILE (of the built-in backends' certificates), LISTEN and ADMIN (free
// addresses for the gateway). The gateway has them in its environment, too, so that a
// configuration in a file of its own writes ${NAME}.
type Scenario struct {
	// What it shows, in a few words.
	Name string `yaml:"name" required:"true"`
	// Built-in backends, which listen on free ports.
	Backends map[string]BackendSpec `yaml:"backends"`
	// Proxies between the gateway and the backends.
	Proxies map[string]ProxySpec `yaml:"proxies"`
	// Name server with answers that steps change.
	DNS *DNSSpec `yaml:"dns"`
	// The gateway that the load goes to.
	Gateway GatewaySpec `yaml:"gateway"`
	Load    LoadSpec    `yaml:"load"`
	// Steps, one after another.
	Steps []Step `yaml:"steps" required:"true"`
}

// BackendSpec is a built-in backend.
type BackendSpec struct {
	Kind BackendKind `yaml:"kind" default:"http" enum:"http|echo"`
	// Speak TLS, with a certificate for localhost, 127.0.0.1 and *.test by the authority in
	// CA_FILE.
	TLS bool `yaml:"tls"`
	// Size of response bodies.
	Size unit.Size `yaml:"size" default:"1KiB" max:"64MiB"`
}

// ProxySpec is one proxy, to a built-in backend or to a host:port.
type ProxySpec struct {
	Listen  string `yaml:"listen" default:"127.0.0.1:0"`
	Backend string `yaml:"backend"`
	Target  string `yaml:"target"`
	// Follow HTTP on all connections; see Options.HTTP. It is on where a step needs it.
	HTTP bool `yaml:"http"`
}

// DNSSpec is the name server.
type DNSSpec struct {
	Listen string `yaml:"listen" default:"127.0.0.1:0"`
	// Answers in the beginning, by name.
	Names map[string]dnsflip.Answer `yaml:"names"`
}

// GatewaySpec is the gateway: started with a configuration, or running at a URL.
type GatewaySpec struct {
	// Configuration of a tickgate to start, as text or in a file. It must listen at LISTEN and have
	// its admin endpoint at ADMIN.
	Config     string `yaml:"config"`
	ConfigFile string `yaml:"config_file"`
	// Gateway that runs already: URL for the load, and admin URL for metrics ("" is none).
	URL   string `yaml:"url"`
	Admin string `yaml:"admin"`
	// Time that a gateway that is started has to become ready.
	ReadyWithin time.Duration `yaml:"ready_within" default:"15s" min:"1s"`
}

// LoadSpec is what clients do all along.
type LoadSpec struct {
	// GET requests a second (open loop), over at most conns connections; 0 sends none.
	Rate    int           `yaml:"rate" default:"100" min:"0" max:"20000"`
	Conns   int           `yaml:"conns" default:"64" min:"1" max:"10000"`
	Path    string        `yaml:"path" default:"/"`
	Timeout time.Duration `yaml:"timeout" default:"5s" min:"1ms"`
	// WebSocket tunnels that echo.
	Tunnels *TunnelSpec `yaml:"tunnels"`
	// Requests beside those, which no expectation is about: pressure.
	Background *BackgroundSpec `yaml:"background"`
	// OK responses in a row that are a recovery.
	Consecutive int `yaml:"consecutive" default:"10" min:"1" max:"100000"`
}

// BackgroundSpec is requests at a rate that package httpload sends and sums up; the requests of
// LoadSpec are told one by one, which costs more.
type BackgroundSpec struct {
	Rate    int           `yaml:"rate" required:"true" min:"1" max:"1000000"`
	Conns   int           `yaml:"conns" default:"64" min:"1" max:"10000"`
	Path    string        `yaml:"path" default:"/"`
	Timeout time.Duration `yaml:"timeout" default:"5s" min:"1ms"`
}

// TunnelSpec is the tunnels that are kept open.
type TunnelSpec struct {
	Count int `yaml:"count" default:"10" min:"1" max:"10000"`
	// Messages a second, over all tunnels together; each is expected back within the timeout.
	Rate    int           `yaml:"rate" default:"50" min:"1" max:"20000"`
	Path    string        `yaml:"path" default:"/"`
	Timeout time.Duration `yaml:"timeout" default:"3s" min:"1ms"`
}

// Step sets faults for a time.
type Step struct {
	Name string `yaml:"name" required:"true"`
	// When it begins: at this time of the run, or this long after the step before has ended.
	At    time.Duration `yaml:"at" min:"0s"`
	After time.Duration `yaml:"after" min:"0s"`
	// Faults by proxy, and answers by name, that the step sets. They last for For; what a step
	// does not name stays as it is.
	Faults map[string]Fault          `yaml:"faults"`
	DNS    map[string]dnsflip.Answer `yaml:"dns"`
	For    time.Duration             `yaml:"for" required:"true" min:"0s"`
	// Leave what was set for the following steps; a recovery counts from its setting then.
	Keep bool `yaml:"keep"`
	// Time behind the faults that belongs to the step.
	Settle time.Duration `yaml:"settle" min:"0s"`
	// What must come of the requests that were due during the step, and of the messages of
	// tunnels.
	Expect        Expect `yaml:"expect"`
	ExpectTunnels Expect `yaml:"expect_tunnels"`
	// What the gateway's metrics must show at the end of the step.
	Metrics []MetricExpect `yaml:"metrics"`
}

// Expect is what must come of requests or messages.
type Expect struct {
	// Least that must have ended well; 0 asks for nothing.
	MinOK int `yaml:"min_ok" min:"0"`
	// Share of errors, statuses of 400 and more among them.
	MaxErrorPercent int `yaml:"max_error_percent" default:"100" min:"0" max:"100"`
	MinErrorPercent int `yaml:"min_error_percent" min:"0" max:"100"`
	// Statuses and kinds of errors that may be seen; none is any.
	Statuses []int    `yaml:"statuses"`
	Kinds    []string `yaml:"kinds"`
	// 99th percentile of those that ended well, and the least that their median must have taken (for
	// a fault that must be felt); 0 is any.
	MaxP99 time.Duration `yaml:"max_p99" min:"0s"`
	MinP50 time.Duration `yaml:"min_p50" min:"0s"`
	// Time from the end of the faults to the first of load.consecutive good ones in a row; 0
	// is any.
	RecoverWithin time.Duration `yaml:"recover_within" min:"0s"`
}

// MetricExpect is a condition on a metric of the gateway.
type MetricExpect struct {
	// Name, with labels that a series must have: name{label="value"}. Series that match are
	// added up.
	Name string `yaml:"name" required:"true"`
	// Its value at the end of the step, or what it has grown by since the step began.
	Of string `yaml:"of" default:"increase" enum:"increase|value"`
	// How that compares with Value.
	Op    string `yaml:"op" default:">=" enum:">=|<=|==|>|<"`
	Value int    `yaml:"value"`
}

// Load reads a scenario file. The report tells what is wrong with it; its Err is nil if
// nothing is.
func Load(path string) (*Scenario, *config.Report) {
	s := new(Scenario)
	return s, config.DecodeFile(path, s, s.check)
}

// Parse is Load for text that is at hand.
func Parse(name, text string) (*Scenario, *config.Report) {
	s := new(Scenario)
	return s, config.Decode(name, []byte(text), s, s.check)
}

// check finds what the tags cannot say.
func (s *Scenario) check(wrong func(keyPath, seen, want string)) {
	for name, p := range s.Proxies {
		s.checkProxy("proxies."+name, &p, wrong)
	}
	s.checkGateway(wrong)
	var at time.Duration
	for i := range s.Steps {
		step := &s.Steps[i]
		path := fmt.Sprintf("steps[%d]", i)
		if step.At > 0 && step.At < at {
			wrong(path+".at", step.At.String(), fmt.Sprintf("at least %v, when the step before ends", at))
		}
		at = max(at+step.After, step.At) + step.For + step.Settle
		s.checkStep(path, step, wrong)
	}
}

func (s *Scenario) checkProxy(path string, p *ProxySpec, wrong func(keyPath, seen, want string)) {
	_, known := s.Backends[p.Backend]
	switch {
	case (p.Backend == "") == (p.Target == ""):
		wrong(path, "", "either backend or target")
	case p.Backend != "" && !known:
		wrong(path+".backend", p.Backend, "a name in backends")
	case p.Target != "":
		if _, _, err := net.SplitHostPort(p.Target); err != nil {
			wrong(path+".target", p.Target, "host:port")
		}
	}
}

func (s *Scenario) checkGateway(wrong func(keyPath, seen, want string)) {
	g := &s.Gateway
	given := 0
	for _, text := range []string{g.Config, g.ConfigFile, g.URL} {
		if text != "" {
			given++
		}
	}
	if given != 1 {
		wrong("gateway", "", "one of config, config_file and url")
	}
	if g.Admin != "" && g.URL == "" {
		wrong("gateway.admin", g.Admin, "a url beside it: the admin endpoint of a gateway that is started is ADMIN")
	}
	if s.Load.Rate == 0 && s.Load.Tunnels == nil {
		wrong("load", "", "a rate or tunnels")
	}
}

func (s *Scenario) checkStep(path string, step *Step, wrong func(keyPath, seen, want string)) {
	for name, f := range step.Faults {
		at := path + ".faults." + name
		p, known := s.Proxies[name]
		if !known {
			wrong(at, name, "a name in proxies")
		}
		if err := f.check(); err != nil {
			wrong(at, "", strings.TrimPrefix(err.Error(), ErrFault.Error()+": "))
		}
		if b := s.Backends[p.Backend]; f.Clock != 0 && (p.Backend == "" || b.Kind == BackendEcho) {
			wrong(at+".clock", f.Clock.String(), "a proxy to a built-in http backend")
		}
		if f.Answer.Status != 0 && s.Backends[p.Backend].TLS {
			wrong(at+".answer", "", "a backend without TLS, which the proxy cannot look into")
		}
	}
	if len(step.DNS) > 0 && s.DNS == nil {
		wrong(path+".dns", "", "a dns server in the scenario")
	}
	s.checkExpect(path+".expect", &step.Expect, s.Load.Rate > 0, wrong)
	s.checkExpect(path+".expect_tunnels", &step.ExpectTunnels, s.Load.Tunnels != nil, wrong)
	for i, m := range step.Metrics {
		if _, err := parseSeries(m.Name); err != nil {
			wrong(fmt.Sprintf("%s.metrics[%d].name", path, i), m.Name, `name or name{label="value"}`)
		}
	}
	if len(step.Metrics) > 0 && s.Gateway.URL != "" && s.Gateway.Admin == "" {
		wrong(path+".metrics", "", "gateway.admin, to read them from")
	}
}

func (s *Scenario) checkExpect(path string, e *Expect, loaded bool, wrong func(keyPath, seen, want string)) {
	for _, kind := range e.Kinds {
		if !slices.Contains(probe.Kinds(), kind) {
			wrong(path+".kinds", kind, "one of "+strings.Join(probe.Kinds(), ", "))
		}
	}
	asks := e.MinOK > 0 || e.MinErrorPercent > 0 || e.MaxP99 > 0 || e.MinP50 > 0 || e.RecoverWithin > 0
	if asks && !loaded {
		wrong(path, "", "a load of that kind")
	}
}

// follows says whether a proxy must follow HTTP for what steps do to it.
func (s *Scenario) follows(proxy string) bool {
	if s.Proxies[proxy].HTTP {
		return true
	}
	for i := range s.Steps {
		f, set := s.Steps[i].Faults[proxy]
		plain := !s.Backends[s.Proxies[proxy].Backend].TLS
		if set && plain && (f.Answer.Status != 0 || f.Truncate > 0 || f.ToTarget.Corrupt.byPart() || f.ToClient.Corrupt.byPart()) {
			return true
		}
	}
	return false
}

// Duration is how long the steps take.
func (s *Scenario) Duration() (d time.Duration) {
	for i := range s.Steps {
		step := &s.Steps[i]
		d = max(d+step.After, step.At) + step.For + step.Settle
	}
	return d
}

// series is a metric's name and some of its labels.
type series struct {
	name   string
	labels []string // name="value"
}

var (
	seriesText = regexp.MustCompile(`^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?$`)
	labelText  = regexp.MustCompile(`\w+="(?:[^"\\]|\\.)*"`)
)

// parseSeries reads name{label="value",…}.
func parseSeries(text string) (series, error) {
	m := seriesText.FindStringSubmatch(text)
	if m == nil || strings.Trim(labelText.ReplaceAllString(m[2], ""), ", ") != "" {
		return series{}, fmt.Errorf("%w: metric %q", ErrScenario, text)
	}
	return series{m[1], labelText.FindAllString(m[2], -1)}, nil
}
