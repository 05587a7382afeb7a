package upstream

import (
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"tickgate/config"
	"tickgate/health"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

func TestBuildKeepsWhatDidNotChange(t *testing.T) {
	base := func() *config.Upstream {
		c := upstreamOf("round_robin", servers(1, 1)...)
		c.HealthCheck = &health.Options{Type: "tcp", Initial: "up"}
		return c
	}
	// The outcome is the Set and the first backend, each "same" or "new".
	f := func(name, wantSet, wantBackend string, change func(*config.Upstream)) {
		t.Helper()
		r := newRegistry(t, Options{Checker: &fakeChecker{}})
		old := build(t, r, base())
		b := old.Backends()[0]
		pool := b.Pool(r.Tag("default"))
		b.Begin()
		b.End(time.Second, true)
		b.Begin()
		b.SetHealth(false, "test")
		cfg := base()
		change(cfg)
		now := build(t, r, cfg)
		word := map[bool]string{true: "same", false: "new"}
		if got := word[now == old]; got != wantSet {
			t.Errorf("%s: the Set is %s, want %s", name, got, wantSet)
		}
		nb := now.Backends()[0]
		if got := word[nb == b]; got != wantBackend {
			t.Errorf("%s: the backend is %s, want %s", name, got, wantBackend)
		}
		if wantBackend == "same" && (nb.Pool(r.Tag("default")) != pool || nb.InFlight() != 1 || nb.ewma.value(r.since()) < 0.9 || nb.Up()) {
			t.Errorf("%s: the backend lost its pool, its in-flight count, its average or its health", name)
		}
		if wantBackend == "new" && !pool.retired.Load() {
			t.Errorf("%s: the old backend was not retired", name)
		}
	}
	f("nothing", "same", "same", func(*config.Upstream) {})
	f("weight", "new", "same", func(c *config.Upstream) { c.Servers[0].Weight = 5 })
	f("backup", "new", "same", func(c *config.Upstream) { c.Servers[0].Backup = true })
	f("drain", "new", "same", func(c *config.Upstream) { c.Servers[0].Drain = true })
	f("limit", "new", "same", func(c *config.Upstream) { c.Servers[0].MaxInFlight = 5 })
	f("one more server", "new", "same", func(c *config.Upstream) { c.Servers = append(c.Servers, config.Server{Address: "10.0.0.9:80"}) })
	f("balance", "new", "same", func(c *config.Upstream) { c.Balance = "p2c" })
	f("retry", "new", "same", func(c *config.Upstream) { c.Retry.Attempts = 5 })
	f("response timeout", "new", "same", func(c *config.Upstream) { c.Timeouts.ResponseHeader = 5 })
	f("pool", "new", "new", func(c *config.Upstream) { c.Pool.MaxConns = 5 })
	f("dial timeout", "new", "new", func(c *config.Upstream) { c.Timeouts.Dial = 5 })
	f("TLS", "new", "new", func(c *config.Upstream) { c.TLS = &config.BackendTLS{InsecureSkipVerify: true} })
	f("address", "new", "new", func(c *config.Upstream) { c.Servers[0].Address = "10.0.0.1:81" })
}

func TestCommitRetires(t *testing.T) {
	srv, kept := newLineServer(t, listenTCP(t)), newLineServer(t, listenTCP(t))
	checker := &fakeChecker{}
	r := newRegistry(t, Options{Checker: checker})
	cfg := upstreamOf("round_robin", config.Server{Address: kept.addr, Weight: 1}, config.Server{Address: srv.addr, Weight: 1})
	cfg.HealthCheck = &health.Options{Type: "tcp"}
	old := build(t, r, cfg)
	stays, goes := old.Backends()[0], old.Backends()[1]
	tag := r.Tag("default")
	mustDo(t, stays.Pool(tag), line("a"))
	mustDo(t, goes.Pool(tag), line("a"))
	inFlight := hold(goes.Pool(tag)) // takes the idle connection
	mustDo(t, goes.Pool(tag), line("a"))

	next := upstreamOf("round_robin", config.Server{Address: kept.addr, Weight: 1})
	next.HealthCheck = cfg.HealthCheck
	build(t, r, next)
	srv.waitEnded(t, 1) // the idle one
	if !checker.at(srv.addr).stopped || checker.at(kept.addr).stopped {
		t.Error("want the probes of the backend that went stopped, and only those")
	}
	if n := goes.Pool(tag).Stats().InUse; n != 1 {
		t.Errorf("%d connections of the backend that went are in use, want the one in flight", n)
	}
	inFlight.end()
	srv.waitEnded(t, 1)
	if tm := mustDo(t, stays.Pool(tag), line("a")); tm.Fresh {
		t.Error("the pool of the backend that stayed is cold")
	}
	// A request that runs on the old snapshot can still be served.
	if old.Pick(0, nil) == nil {
		t.Error("the old Set picks nothing")
	}
	mustDo(t, goes.Pool(tag), line("a"))
	srv.waitEnded(t, 1)
}

func TestAbortChangesNothing(t *testing.T) {
	srv := newLineServer(t, listenTCP(t))
	checker := &fakeChecker{}
	r := newRegistry(t, Options{Checker: checker})
	cfg := upstreamOf("round_robin", config.Server{Address: srv.addr, Weight: 1})
	cfg.HealthCheck = &health.Options{Type: "tcp"}
	old := build(t, r, cfg)
	mustDo(t, old.Backends()[0].Pool(0), line("a"))

	next := upstreamOf("random", config.Server{Address: srv.addr, Weight: 1}, config.Server{Address: "10.0.0.1:80", Weight: 1})
	next.HealthCheck = &health.Options{Type: "http"}
	sets, commit, abort, err := r.Build(map[string]*config.Upstream{"up": next, "other": next}, config.Resolver{})
	if err != nil {
		t.Fatal(err)
	}
	if len(sets) != 2 || len(sets["other"].Backends()) != 2 {
		t.Fatalf("sets %v", sets)
	}
	abort()
	commit() // too late: it does nothing
	if r.Set("up") != old || r.Set("other") != nil {
		t.Error("the current Sets changed")
	}
	if tm := mustDo(t, old.Backends()[0].Pool(0), line("a")); tm.Fresh {
		t.Error("the pool is cold")
	}
	if w := checker.at("10.0.0.1:80"); !w.stopped {
		t.Error("the backend that never was is still probed")
	}
	if len(r.families) != 1 || len(old.fam.backends) != 1 {
		t.Errorf("%d upstreams and %d backends are left, want 1 and 1", len(r.families), len(old.fam.backends))
	}
}

func TestReloadReadsFilesAgain(t *testing.T) {
	r := newRegistry(t, Options{})
	file := filepath.Join(t.TempDir(), "ca.pem")
	at := func(pair *testcert.Pair) *Set {
		t.Helper()
		pair.Write(t, file, filepath.Join(t.TempDir(), "key.pem"))
		cfg := upstreamOf("random", servers(1)...)
		cfg.TLS = &config.BackendTLS{CAFile: file}
		return build(t, r, cfg)
	}
	one, two := testcert.New(t), testcert.New(t)
	first, same, renewed := at(one), at(one), at(two)
	if first != same {
		t.Error("a reload with the same file makes a new Set")
	}
	if renewed != first {
		t.Error("a reload with another certificate in the file makes a new Set")
	}
	if !renewed.creds.current.Load().config.RootCAs.Equal(two.Pool()) {
		t.Error("a reload with another certificate in the file does not go over to it")
	}
}

func TestHealthDecidesWhoIsPicked(t *testing.T) {
	checker := &fakeChecker{}
	r := newRegistry(t, Options{Checker: checker})
	cfg := upstreamOf("round_robin", servers(1, 1)...)
	cfg.HealthCheck = &health.Options{Type: "http", Initial: "down"}
	s := build(t, r, cfg)
	want := func(step, want string) {
		t.Helper()
		got := map[string]bool{}
		for range 10 {
			got[short(s.Pick(0, nil))] = true
		}
		if len(got) != len(want) {
			t.Errorf("%s: picked %v, want %q", step, got, want)
		}
		for _, c := range want {
			if !got[string(c)] {
				t.Errorf("%s: picked %v, want %q", step, got, want)
			}
		}
	}
	want("initially down", "-")
	checker.at("10.0.0.1:80").report(true, "ok")
	want("one up", "1")
	checker.at("10.0.0.2:80").report(true, "ok")
	want("both up", "12")
	first := checker.at("10.0.0.1:80")
	first.report(false, "status 503")
	want("one down", "2")
	if c := s.Status().Backends[0].LastHealthChange; c == nil || c.Up || c.Cause != "status 503" || c.At.IsZero() {
		t.Errorf("last health change %+v", c)
	}

	cfg = upstreamOf("round_robin", servers(1, 1)...)
	cfg.HealthCheck = &health.Options{Type: "tcp", Initial: "up"}
	s = build(t, r, cfg)
	want("a changed check begins anew", "12")
	if checker.started != 4 {
		t.Errorf("%d watches were started, want 4", checker.started)
	}
	first.report(false, "late")
	want("a late result of the old check is ignored", "12")
	checker.at("10.0.0.2:80").report(false, "connect refused")
	want("the new check counts", "1")
	s = build(t, r, upstreamOf("round_robin", servers(1, 1)...))
	want("without a check everything is up", "12")
	if w := checker.at("10.0.0.2:80"); !w.stopped {
		t.Error("a removed check still probes")
	}
}

func TestHealthTarget(t *testing.T) {
	checker := &fakeChecker{}
	cfg := upstreamOf("round_robin", config.Server{Address: "localhost:443"})
	cfg.HealthCheck = &health.Options{Type: "http"}
	cfg.TLS = &config.BackendTLS{ServerName: "be.example"}
	newSet(t, Options{Checker: checker}, cfg)
	got := checker.at("localhost:443").target
	if got.Network != "tcp" || got.Host != "localhost" || got.TLS == nil || got.TLS().ServerName != "be.example" {
		t.Errorf("target %+v", got)
	}
}

func TestSetDrain(t *testing.T) {
	r := newRegistry(t, Options{})
	list := servers(1, 1)
	s := build(t, r, upstreamOf("round_robin", list...))
	want := func(step, want string) {
		t.Helper()
		for range 4 {
			if got := short(s.Pick(0, nil)); got != want {
				t.Errorf("%s: picked %s, want %s", step, got, want)
				return
			}
		}
	}
	if s.SetDrain("10.0.0.7:80", true) {
		t.Error("an unknown address was drained")
	}
	if !s.SetDrain("10.0.0.1:80", true) {
		t.Error("a known address was not drained")
	}
	want("drained", "2")
	if st := s.Status().Backends; !st[0].Drained || st[1].Drained {
		t.Errorf("status %+v", st)
	}

	list = servers(2, 1)
	s = build(t, r, upstreamOf("round_robin", list...))
	want("a reload keeps it", "2")

	list = servers(2, 1)
	list[0].Drain = true
	s = build(t, r, upstreamOf("round_robin", list...))
	want("drained by the configuration", "2")
	s.SetDrain("10.0.0.1:80", false)
	s.SetDrain("10.0.0.2:80", true)
	want("an operator overrules the configuration", "1")

	list = servers(2, 1)
	s = build(t, r, upstreamOf("round_robin", list...))
	want("a changed drain in the configuration overrules the operator; the other stays", "1")
	s.SetDrain("10.0.0.1:80", true)
	want("all drained", "-")
}

func TestBudgetOutlivesReloads(t *testing.T) {
	r := newRegistry(t, Options{})
	first := build(t, r, upstreamOf("random", servers(1)...))
	second := build(t, r, upstreamOf("random", servers(2)...))
	if first == second || first.Budget() != second.Budget() {
		t.Error("a reload that does not change the budget resets it")
	}
	cfg := upstreamOf("random", servers(2)...)
	cfg.Retry.BudgetPercent = 50
	if third := build(t, r, cfg); third.Budget() == second.Budget() {
		t.Error("a changed budget is not used")
	}
}

func TestStatus(t *testing.T) {
	srv := newLineServer(t, listenTCP(t))
	now := time.Unix(1000, 0)
	cfg := upstreamOf("p2c", config.Server{Address: srv.addr, Weight: 3, MaxInFlight: 7}, config.Server{Address: "10.0.0.2:80", Weight: 1, Backup: true})
	s := newSet(t, Options{Now: func() time.Time { return now }}, cfg)
	b := s.Backends()[0]
	b.Begin()
	b.End(20*time.Millisecond, true)
	b.Begin()
	mustDo(t, b.Pool(s.Tag("prod")), line("a"))
	st := s.Status()
	if st.Name != "up" || st.Balance != "p2c" || len(st.Backends) != 2 || len(st.Names) != 0 {
		t.Fatalf("status %+v", st)
	}
	got := st.Backends[0]
	if got.Address != srv.addr || got.Server != srv.addr || got.Weight != 3 || !got.Up || got.Drained || got.Backup ||
		got.InFlight != 1 || got.MaxInFlight != 7 || got.EWMAMillis < 19.9 || got.EWMAMillis > 20.1 || got.LastHealthChange != nil {
		t.Errorf("backend %+v", got)
	}
	if len(got.Pools) != 1 || got.Pools[0].Tag != "prod" || got.Pools[0].Idle != 1 || got.Pools[0].Dials != 1 {
		t.Errorf("pools %+v", got.Pools)
	}
	if !st.Backends[1].Backup || len(st.Backends[1].Pools) != 0 {
		t.Errorf("backend %+v", st.Backends[1])
	}
}

func TestMetrics(t *testing.T) {
	srv := newLineServer(t, listenTCP(t))
	r := newRegistry(t, Options{})
	cfg := upstreamOf("random", config.Server{Address: srv.addr, Weight: 1})
	cfg.Pool.MaxConns, cfg.Pool.WaitTimeout = 1, time.Millisecond
	s := build(t, r, cfg)
	b := s.Backends()[0]
	b.Begin()
	p := b.Pool(r.Tag("prod"))
	h := hold(p)
	var tm Timing
	_ = p.Do(line("a"), 0, &tm)
	s.Budget().AllowRetry(time.Now())
	has := func(want ...string) {
		t.Helper()
		var out strings.Builder
		r.WriteMetrics(&out)
		for _, w := range want {
			w = strings.ReplaceAll(w, "ADDR", srv.addr)
			if no, gone := strings.CutPrefix(w, "!"); gone == strings.Contains(out.String(), strings.TrimPrefix(no, "!")) {
				t.Errorf("want %q in\n%s", w, out.String())
			}
		}
	}
	has(
		`tickgate_upstream_backend_up{upstream="up",backend="ADDR"} 1`,
		`tickgate_upstream_inflight{upstream="up",backend="ADDR"} 1`,
		`tickgate_upstream_pool_connections{upstream="up",backend="ADDR",tag="prod",state="idle"} 0`,
		`tickgate_upstream_pool_connections{upstream="up",backend="ADDR",tag="prod",state="in_use"} 1`,
		`tickgate_upstream_pool_connections{upstream="up",backend="ADDR",tag="prod",state="waiting"} 0`,
		`tickgate_upstream_pool_rejected_total{upstream="up",backend="ADDR",tag="prod"} 1`,
		`tickgate_upstream_pool_wait_seconds_count{upstream="up"} 1`,
		`tickgate_upstream_dials_total{upstream="up",backend="ADDR",result="ok"} 1`,
		`tickgate_upstream_dials_total{upstream="up",backend="ADDR",result="failed"} 0`,
		`tickgate_upstream_retry_budget_total{upstream="up",result="allowed"} 1`,
		`tickgate_upstream_retry_budget_total{upstream="up",result="denied"} 0`,
		`tickgate_upstream_dns_lookups_total{result="ok"} 0`,
		`tickgate_upstream_dns_lookups_total{result="timeout"} 0`,
	)
	h.end()
	b.SetHealth(false, "test")
	has(`tickgate_upstream_backend_up{upstream="up",backend="ADDR"} 0`,
		`tickgate_upstream_pool_connections{upstream="up",backend="ADDR",tag="prod",state="idle"} 1`)
	build(t, r, upstreamOf("random", servers(1)...))
	has("!ADDR", `backend="10.0.0.1:80"`)
	_, commit, _, err := r.Build(nil, config.Resolver{})
	if err != nil {
		t.Fatal(err)
	}
	commit()
	has(`!upstream="up"`, "tickgate_upstream_dns_lookups_total")
}

func TestReloadsLeaveNothingBehind(t *testing.T) {
	srv := newLineServer(t, listenTCP(t))
	checker := &fakeChecker{}
	r := newRegistry(t, Options{Checker: checker})
	before := runtime.NumGoroutine()
	for i := range 50 {
		cfg := upstreamOf("random", config.Server{Address: srv.addr, Weight: 1})
		cfg.Pool.MaxConns = 1 + i%2 // a new backend each time
		cfg.Pool.IdleTimeout = time.Millisecond
		cfg.HealthCheck = &health.Options{Type: "tcp"}
		s := build(t, r, cfg)
		mustDo(t, s.Backends()[0].Pool(0), line("a"))
	}
	_, commit, _, err := r.Build(nil, config.Resolver{})
	if err != nil {
		t.Fatal(err)
	}
	commit()
	srv.waitEnded(t, 50)
	testkit.WaitUntil(t, "no more goroutines than before", func() bool { return runtime.NumGoroutine() <= before })
	if len(r.families) != 0 || checker.started != 50 {
		t.Errorf("%d upstreams left, %d watches, want 0 and 50", len(r.families), checker.started)
	}
}

func TestTags(t *testing.T) {
	r := NewRegistry(Options{})
	a, b := r.Tag("a"), r.Tag("b")
	if a == b || r.Tag("a") != a || r.tagName(b) != "b" || r.Tag("default") != 0 {
		t.Errorf("tags a=%d, b=%d", a, b)
	}
}
