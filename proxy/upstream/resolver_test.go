package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/rs/zerolog"
	"golang.org/x/net/dns/dnsmessage"

	"tickgate/config"
	"tickgate/internal/reason"
	"tickgate/internal/testkit"
)

func TestNextLookup(t *testing.T) {
	const s = time.Second
	f := func(name string, want time.Duration, cfg config.Resolver, ttl time.Duration, failing int, jitter float64) {
		t.Helper()
		if got := nextLookup(&cfg, ttl, failing, jitter); got.Round(time.Millisecond) != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	byTTL, byInterval := config.Resolver{MinTTL: s}, config.Resolver{MinTTL: s, Interval: 10 * s}
	f("TTL", 30*s, byTTL, 30*s, 0, 0)
	f("TTL and jitter", 31500*time.Millisecond, byTTL, 30*s, 0, 0.5)
	f("min_ttl", s, byTTL, 0, 0, 0)
	f("longest TTL", maxTTL, byTTL, 100*time.Hour, 0, 0)
	f("interval, low", 9*s, byInterval, 30*s, 0, 0)
	f("interval, middle", 10*s, byInterval, 30*s, 0, 0.5)
	f("interval, high", 10500*time.Millisecond, byInterval, s, 0, 0.75)
	f("first failure", s, byTTL, 0, 1, 0)
	f("second", 2*s, byTTL, 0, 2, 0)
	f("fifth", 16*s, byTTL, 0, 5, 0)
	f("sixth", maxBackoff, byTTL, 0, 6, 0)
	f("thousandth", maxBackoff, byTTL, 0, 1000, 0)
	f("failure with jitter", 2100*time.Millisecond, byTTL, 0, 2, 0.5)
	f("failures within the interval", 10*s, byInterval, 0, 6, 0)
	f("failures keep min_ttl", 5*s, config.Resolver{MinTTL: 5 * s}, 0, 1, 0)
}

// fakeLookups answers lookups on fake time and records when they were made.
type fakeLookups struct {
	mu     sync.Mutex
	start  time.Time
	at     []time.Duration
	answer answer
	err    error
}

func (f *fakeLookups) lookup(context.Context, origin, *config.Resolver, []target) (answer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = append(f.at, time.Since(f.start))
	return f.answer, f.err
}

func (f *fakeLookups) set(err error, ttl time.Duration, addrs ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer, f.err = answer{ttl: ttl}, err
	for _, a := range addrs {
		f.answer.targets = append(f.answer.targets, target{network: "tcp", address: a, weight: 1})
	}
}

// taken returns the times of the lookups since the last call, rounded down to what
// they are without jitter.
func (f *fakeLookups) taken(gaps ...time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.at) != len(gaps)+1 {
		return fmt.Errorf("%d lookups at %v, want %d", len(f.at), f.at, len(gaps)+1)
	}
	for i, want := range gaps {
		if got := f.at[i+1] - f.at[i]; got < want || got > want+want/10 {
			return fmt.Errorf("lookup %d came %v after the one before, want %v and at most a tenth more", i+2, got, want)
		}
	}
	f.at = f.at[len(f.at)-1:]
	return nil
}

func TestResolverSchedule(t *testing.T) {
	const s = time.Second
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		lookups := &fakeLookups{start: time.Now()}
		r := newResolver(lookups, zerolog.New(&log), metrics.NewSet())
		var got [][]target
		sleep := func(d time.Duration) {
			time.Sleep(d) // fake time
			synctest.Wait()
		}
		lookups.set(nil, 30*s, "10.0.0.1:80")
		o := origin{kind: hostName, host: "be.example", port: "80"}
		cfg := config.Resolver{MinTTL: s, Timeout: s}
		sub := r.subscribe(o, cfg, func(ts []target) { got = append(got, ts) })
		want := func(step string, addresses string, gaps ...time.Duration) {
			t.Helper()
			if err := lookups.taken(gaps...); err != nil {
				t.Errorf("%s: %v", step, err)
			}
			var all []string
			for _, ts := range got {
				all = append(all, describe(ts))
			}
			if text := strings.Join(all, ", "); text != addresses {
				t.Errorf("%s: told %q, want %q", step, text, addresses)
			}
			got = nil
		}
		synctest.Wait()
		<-sub.first()
		want("first lookup", "10.0.0.1:80")
		sleep(70 * s)
		want("nothing new after each TTL", "", 30*s, 30*s)
		lookups.set(nil, 100*s, "10.0.0.2:80")
		sleep(33 * s)
		want("a new address", "10.0.0.2:80", 30*s)
		lookups.set(ErrNoSuchName, 0)
		sleep(111 * s)
		if len(got) != 0 {
			t.Errorf("a failed lookup told %v, want the last good answer to stay", got)
		}
		if st := sub.status(); st.Error == "" || st.LastSuccess.IsZero() {
			t.Errorf("status %+v", st)
		}
		sleep(100 * s)
		lookups.set(nil, 100*s, "10.0.0.2:80")
		sleep(34 * s)
		if st := sub.status(); st.Error != "" {
			t.Errorf("status %+v", st)
		}
		if len(got) != 0 {
			t.Errorf("told %v though the address is the one before", got)
		}
		if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "does not resolve") || !strings.Contains(log.String(), "resolves again") {
			t.Errorf("log, want a line as it begins and one as it ends:\n%s", log.String())
		}
		known := [][]target{}
		other := r.subscribe(o, cfg, func(ts []target) { known = append(known, ts) })
		if len(known) != 1 || describe(known[0]) != "10.0.0.2:80" {
			t.Errorf("a second subscriber was told %v, want what is known", known)
		}
		sub.stop()
		sub.stop()
		if len(r.names) != 1 {
			t.Error("the lookups ended though one subscriber is left")
		}
		other.stop() // the bubble ends only if the goroutine does
		if len(r.names) != 0 {
			t.Error("the name is still there")
		}
	})
}

func TestResolverBacksOff(t *testing.T) {
	const s = time.Second
	synctest.Test(t, func(t *testing.T) {
		lookups := &fakeLookups{start: time.Now()}
		lookups.set(errors.New("broken"), 0)
		r := newResolver(lookups, zerolog.Nop(), metrics.NewSet())
		sub := r.subscribe(origin{kind: hostName, host: "x"}, config.Resolver{MinTTL: s, Timeout: s}, func([]target) { t.Error("told something") })
		defer sub.stop()
		time.Sleep(71 * s)
		synctest.Wait()
		if err := lookups.taken(s, 2*s, 4*s, 8*s, 16*s, 30*s); err != nil {
			t.Error(err)
		}
		if n := r.counts["failed"].Get(); n != 7 {
			t.Errorf("%d failed lookups counted, want 7", n)
		}
	})
}

func TestResolverSeedsNewSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lookups := &fakeLookups{start: time.Now()}
		lookups.set(nil, time.Hour, "10.0.0.1:80")
		r := newResolver(lookups, zerolog.Nop(), metrics.NewSet())
		o := origin{kind: hostName, host: "x"}
		old := r.subscribe(o, config.Resolver{MinTTL: time.Second, Timeout: time.Second}, func([]target) {})
		synctest.Wait()
		lookups.set(errors.New("broken"), 0)
		var got []target
		sub := r.subscribe(o, config.Resolver{MinTTL: time.Minute, Timeout: time.Second}, func(ts []target) { got = ts })
		old.stop()
		synctest.Wait()
		if describe(got) != "10.0.0.1:80" {
			t.Errorf("told %q, want the last good answer from before", describe(got))
		}
		sub.stop()
	})
}

// resolving builds an upstream against a DNS server that is asked every few milliseconds.
func resolving(t *testing.T, r *Registry, srv *dnsServer, servers ...config.Server) *Set {
	t.Helper()
	r.resolver.client = testClient(t, "", "")
	cfg := upstreamOf("round_robin", servers...)
	sets, commit, _, err := r.Build(map[string]*config.Upstream{"up": cfg}, config.Resolver{
		Servers: []string{srv.addr}, Interval: 2 * time.Millisecond, MinTTL: time.Millisecond, Timeout: 5 * time.Second, Family: "ipv4",
	})
	if err != nil {
		t.Fatal(err)
	}
	commit()
	return sets["up"]
}

func addresses(s *Set) string {
	var list []string
	for _, b := range s.Backends() {
		list = append(list, b.Address())
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func TestBackendsFollowDNS(t *testing.T) {
	dns, be := newDNSServer(t), newLineServer(t, listenTCP(t))
	port := be.addr[len("127.0.0.1:"):]
	dns.set("A", "be.example.", 1, "127.0.0.1")
	r := newRegistry(t, Options{})
	s := resolving(t, r, dns, config.Server{Address: "be.example:" + port, Weight: 1})
	if got := addresses(s); got != "127.0.0.1:"+port {
		t.Fatalf("backends after Build: %q", got)
	}
	b := s.Backends()[0]
	if b.Server() != "be.example:"+port || b.Host() != "be.example:"+port || b.Label() != "127.0.0.1:"+port {
		t.Errorf("server %q, host %q, label %q", b.Server(), b.Host(), b.Label())
	}
	mustDo(t, b.Pool(0), line("a"))

	dns.set("A", "be.example.", 1, "127.0.0.1", "127.0.0.2")
	testkit.WaitUntil(t, "two backends", func() bool { return addresses(s) == "127.0.0.1:"+port+" 127.0.0.2:"+port })
	if tm := mustDo(t, b.Pool(0), line("a")); tm.Fresh || s.Backends()[0] != b {
		t.Error("the backend that stayed lost its pool")
	}

	dns.set("A", "be.example.", 0)
	failed := r.resolver.counts["not_found"].Get()
	testkit.WaitUntil(t, "some failed lookups", func() bool { return r.resolver.counts["not_found"].Get() > failed+2 })
	if got := addresses(s); got != "127.0.0.1:"+port+" 127.0.0.2:"+port {
		t.Errorf("backends after NXDOMAIN: %q, want the last good answer", got)
	}
	if st := s.Status(); len(st.Names) != 1 || st.Names[0].Error == "" || st.Names[0].Addresses != 2 {
		t.Errorf("status %+v", st.Names)
	}

	h := hold(b.Pool(0))
	dns.set("A", "be.example.", 1, "127.0.0.2")
	testkit.WaitUntil(t, "one backend", func() bool { return addresses(s) == "127.0.0.2:"+port })
	h.end() // in flight to a backend that went
	be.waitEnded(t, 1)
}

func TestUnresolvableNameDoesNotPreventStart(t *testing.T) {
	dns := newDNSServer(t)
	s := resolving(t, newRegistry(t, Options{}), dns, config.Server{Address: "late.example:80", Weight: 1})
	if b := s.Pick(0, nil); b != nil {
		t.Fatalf("picked %s", b.Address())
	}
	dns.set("A", "late.example.", 1, "10.0.0.1")
	testkit.WaitUntil(t, "a backend", func() bool { return s.Pick(0, nil) != nil })
}

func TestSRVPrioritiesAreBackups(t *testing.T) {
	dns := newDNSServer(t)
	dns.set("A", "a.example.", 1, "10.0.0.1")
	dns.set("A", "b.example.", 1, "10.0.0.2")
	dns.set("A", "c.example.", 1, "10.0.0.3")
	dns.set("SRV", "_h._tcp.example.", 1, "1 3 80 a.example.", "1 1 80 b.example.", "2 1 80 c.example.")
	s := resolving(t, newRegistry(t, Options{}), dns, config.Server{Address: "srv:_h._tcp.example", Weight: 1})
	if got := shares(s, 400, noKey); got["1"] != 300 || got["2"] != 100 {
		t.Errorf("shares %v, want 300 and 100 by SRV weight, none for the backup", got)
	}
	if !s.SetDrain("srv:_h._tcp.example", true) || s.Pick(0, nil) != nil {
		t.Error("draining a server does not drain its backends")
	}
	s.SetDrain("srv:_h._tcp.example", false)
	for _, b := range s.Backends()[:2] {
		b.SetHealth(false, "test")
	}
	if got := short(s.Pick(0, nil)); got != "3" {
		t.Errorf("picked %s, want the backup", got)
	}
}

func TestSameAddressOfTwoNames(t *testing.T) {
	dns := newDNSServer(t)
	dns.set("A", "a.example.", 1, "10.0.0.1")
	dns.set("A", "b.example.", 1, "10.0.0.1")
	s := resolving(t, newRegistry(t, Options{}), dns, config.Server{Address: "a.example:80", Weight: 1}, config.Server{Address: "b.example:80", Weight: 1})
	list := s.Backends()
	if len(list) != 2 || list[0].Label() == list[1].Label() {
		t.Errorf("backends %v, want two with labels of their own", list)
	}
}

func TestReloadKeepsResolvedBackends(t *testing.T) {
	dns := newDNSServer(t)
	dns.set("A", "a.example.", 1, "10.0.0.1")
	r := newRegistry(t, Options{})
	old := resolving(t, r, dns, config.Server{Address: "a.example:80", Weight: 1})
	dns.fail("A", "a.example.", dnsmessage.RCodeServerFailure)
	now := resolving(t, r, dns, config.Server{Address: "a.example:80", Weight: 2})
	if old == now || len(now.Backends()) != 1 || now.Backends()[0] != old.Backends()[0] {
		t.Errorf("backends %v, want the one from before though its name does not resolve now", now.Backends())
	}
}

func TestRegistryCloseEndsLookups(t *testing.T) {
	dns := newDNSServer(t)
	dns.set("A", "a.example.", 1, "10.0.0.1")
	r := newRegistry(t, Options{})
	resolving(t, r, dns, config.Server{Address: "a.example:80", Weight: 1})
	r.Close()
	if len(r.resolver.names) != 0 || len(r.families) != 0 {
		t.Error("lookups or backends are left")
	}
	var err error = &Error{Reason: reason.PoolFull, Err: ErrPoolFull}
	if !strings.HasPrefix(err.Error(), "pool_full: ") {
		t.Errorf("error text %q", err)
	}
}
