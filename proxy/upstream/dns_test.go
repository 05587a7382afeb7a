package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"tickgate/config"
	"tickgate/internal/testkit"
)

// dnsServer is a DNS server over UDP and TCP on one port of the loopback.
type dnsServer struct {
	addr string
	udp  net.PacketConn
	tcp  net.Listener

	mu      sync.Mutex
	records map[string][]dnsmessage.Resource // by "TYPE name."
	rcodes  map[string]dnsmessage.RCode
	asked   []string // "network TYPE name."
	// forge, if set, makes the messages sent over UDP out of the honest answer; none is silence.
	forge func(honest dnsmessage.Message) []dnsmessage.Message
}

func newDNSServer(t testing.TB) *dnsServer {
	t.Helper()
	s := &dnsServer{records: map[string][]dnsmessage.Resource{}, rcodes: map[string]dnsmessage.RCode{}}
	for range 20 { // until a port is free for both
		udp, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		tcp, err := net.Listen("tcp", udp.LocalAddr().String())
		if err == nil {
			s.addr, s.udp, s.tcp = udp.LocalAddr().String(), udp, tcp
			break
		}
		_ = udp.Close()
	}
	if s.tcp == nil {
		t.Fatal("no port is free for both UDP and TCP")
	}
	var wg sync.WaitGroup
	wg.Go(s.serveUDP)
	wg.Go(s.serveTCP)
	t.Cleanup(func() {
		_ = s.udp.Close()
		_ = s.tcp.Close()
		wg.Wait()
	})
	return s
}

func (s *dnsServer) serveUDP() {
	buf := make([]byte, 4096)
	for {
		n, from, err := s.udp.ReadFrom(buf)
		if err != nil {
			return
		}
		honest := s.answer("udp", buf[:n])
		replies := []dnsmessage.Message{honest}
		s.mu.Lock()
		if s.forge != nil {
			replies = s.forge(honest)
		}
		s.mu.Unlock()
		for _, m := range replies {
			packed, _ := m.Pack()
			_, _ = s.udp.WriteTo(packed, from)
		}
	}
}

func (s *dnsServer) serveTCP() {
	for {
		c, err := s.tcp.Accept()
		if err != nil {
			return
		}
		var size [2]byte
		_, _ = io.ReadFull(c, size[:])
		query := make([]byte, binary.BigEndian.Uint16(size[:]))
		_, _ = io.ReadFull(c, query)
		m := s.answer("tcp", query)
		packed, _ := m.Pack()
		_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...))
		_ = c.Close()
	}
}

func keyName(typ dnsmessage.Type, name string) string {
	return strings.TrimPrefix(typ.String(), "Type") + " " + name
}

// answer follows CNAME records of its own zone, as a recursive server does.
func (s *dnsServer) answer(network string, query []byte) dnsmessage.Message {
	var q dnsmessage.Message
	if err := q.Unpack(query); err != nil || len(q.Questions) != 1 {
		return dnsmessage.Message{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name, typ := q.Questions[0].Name.String(), q.Questions[0].Type
	s.asked = append(s.asked, network+" "+keyName(typ, name))
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true, RecursionAvailable: true}, Questions: q.Questions}
	m.RCode = dnsmessage.RCodeNameError
	for hops := 0; hops < 20; hops++ {
		key := keyName(typ, name)
		if code, ok := s.rcodes[key]; ok {
			m.RCode = code
			return m
		}
		if list, ok := s.records[key]; ok {
			m.RCode = dnsmessage.RCodeSuccess
			m.Answers = append(m.Answers, list...)
			return m
		}
		alias, ok := s.records["CNAME "+name]
		if !ok {
			break
		}
		m.RCode = dnsmessage.RCodeSuccess
		m.Answers = append(m.Answers, alias...)
		name = alias[0].Body.(*dnsmessage.CNAMEResource).CNAME.String()
	}
	for key := range s.records { // the name exists, but without such records
		if strings.HasSuffix(key, " "+name) {
			m.RCode = dnsmessage.RCodeSuccess
		}
	}
	return m
}

// set replaces the records of a type and name: "10.0.0.1", "fd00::1", "alias." or "priority weight port target.".
// None removes them.
func (s *dnsServer) set(typ, name string, ttl uint32, values ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(values) == 0 {
		delete(s.records, typ+" "+name)
		return
	}
	var list []dnsmessage.Resource
	for _, v := range values {
		r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET, TTL: ttl}}
		switch typ {
		case "A":
			r.Body = &dnsmessage.AResource{A: netip.MustParseAddr(v).As4()}
		case "AAAA":
			r.Body = &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(v).As16()}
		case "CNAME":
			r.Body = &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(v)}
		case "SRV":
			var body dnsmessage.SRVResource
			var target string
			_, _ = fmt.Sscan(v, &body.Priority, &body.Weight, &body.Port, &target)
			body.Target = dnsmessage.MustNewName(target)
			r.Body = &body
		}
		list = append(list, r)
	}
	s.records[typ+" "+name] = list
}

// fail makes a question fail; RCodeSuccess undoes that.
func (s *dnsServer) fail(typ, name string, code dnsmessage.RCode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if code == dnsmessage.RCodeSuccess {
		delete(s.rcodes, typ+" "+name)
		return
	}
	s.rcodes[typ+" "+name] = code
}

func (s *dnsServer) setForge(f func(dnsmessage.Message) []dnsmessage.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forge = f
}

// questions returns what was asked since the last call.
func (s *dnsServer) questions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

// testClient reads no files of the system, and has routes everywhere.
func testClient(t testing.TB, hosts, resolvConf string) *dnsClient {
	t.Helper()
	dir := t.TempDir()
	c := &dnsClient{hostsFile: filepath.Join(dir, "hosts"), resolvConf: filepath.Join(dir, "resolv.conf"), reachable: func(netip.Addr) bool { return true }}
	for path, text := range map[string]string{c.hostsFile: hosts, c.resolvConf: resolvConf} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// describe writes targets as "address*weight", with a final ! for backups.
func describe(targets []target) string {
	var out []string
	for _, t := range targets {
		text := t.address
		if t.weight != 1 {
			text += fmt.Sprintf("*%d", t.weight)
		}
		if t.backup {
			text += "!"
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

// lookupOnce looks an address up, for at most limit.
func lookupOnce(c *dnsClient, address, family string, limit time.Duration, prev []target, servers ...string) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	o, _ := parseOrigin(address, family)
	return c.lookup(ctx, o, &config.Resolver{Servers: servers, Family: family}, prev)
}

func TestLookup(t *testing.T) {
	srv := newDNSServer(t)
	srv.set("A", "one.example.", 60, "10.0.0.1")
	srv.set("A", "both.example.", 60, "10.0.0.2", "10.0.0.1")
	srv.set("AAAA", "both.example.", 30, "fd00::1")
	srv.set("AAAA", "six.example.", 60, "fd00::1")
	srv.set("A", "twice.example.", 60, "10.0.0.1", "10.0.0.1")
	srv.set("AAAA", "mapped.example.", 60, "::ffff:10.0.0.1")
	srv.set("CNAME", "alias.example.", 20, "middle.example.")
	srv.set("CNAME", "middle.example.", 10, "ONE.example.")
	srv.set("A", "ONE.example.", 60, "10.0.0.1")
	srv.set("CNAME", "loop.example.", 10, "loop2.example.")
	srv.set("CNAME", "loop2.example.", 10, "loop.example.")
	srv.set("CNAME", "dangling.example.", 10, "gone.example.")
	srv.set("A", "one.corp.test.", 60, "10.0.1.1")
	srv.set("A", "long.example.", 90000, "10.0.0.1")
	srv.fail("A", "broken.example.", dnsmessage.RCodeServerFailure)
	srv.fail("AAAA", "broken.example.", dnsmessage.RCodeServerFailure)
	srv.set("SRV", "_http._tcp.svc.example.", 60, "10 5 8001 one.example.", "10 0 8002 both.example.", "20 1 9000 six.example.")
	srv.set("SRV", "_http._tcp.none.example.", 60, "0 0 0 .")
	srv.set("SRV", "_http._tcp.half.example.", 60, "1 1 80 one.example.", "1 1 80 gone.example.")
	srv.set("SRV", "_http._tcp.dead.example.", 60, "1 1 80 gone.example.")
	c := testClient(t, "192.168.1.1 hosted.example # comment\n192.168.1.2 other HOSTED.example\nfd00::9 six.hosted\n", "search corp.test\noptions ndots:1\n")

	ok := func(address, family, want string, ttl time.Duration) {
		t.Helper()
		ans, err := lookupOnce(c, address, family, 5*time.Second, nil, srv.addr)
		if err != nil || describe(ans.targets) != want || ans.ttl != ttl {
			t.Errorf("%s (%s): %q for %v, error %v; want %q for %v", address, family, describe(ans.targets), ans.ttl, err, want, ttl)
		}
	}
	fails := func(address, family string, want error) {
		t.Helper()
		ans, err := lookupOnce(c, address, family, 5*time.Second, nil, srv.addr)
		if err == nil || (want != nil && !errors.Is(err, want)) || resultOf(err) == "failed" != (want == nil) {
			t.Errorf("%s (%s): %v, error %v, want %v", address, family, ans, err, want)
		}
	}
	ok("one.example:80", "any", "10.0.0.1:80", time.Minute)
	ok("one.example.:80", "any", "10.0.0.1:80", time.Minute)
	ok("both.example:80", "any", "10.0.0.1:80 10.0.0.2:80 [fd00::1]:80", 30*time.Second)
	ok("both.example:80", "ipv4", "10.0.0.1:80 10.0.0.2:80", time.Minute)
	ok("both.example:80", "ipv6", "[fd00::1]:80", 30*time.Second)
	ok("six.example:80", "any", "[fd00::1]:80", time.Minute)
	ok("twice.example:80", "any", "10.0.0.1:80", time.Minute)
	ok("mapped.example:80", "any", "10.0.0.1:80", time.Minute)
	ok("alias.example:80", "any", "10.0.0.1:80", 10*time.Second)
	ok("one:80", "any", "10.0.1.1:80", time.Minute) // search list
	ok("long.example:80", "any", "10.0.0.1:80", maxTTL)
	ok("hosted.example:80", "any", "192.168.1.1:80 192.168.1.2:80", hostsTTL)
	ok("six.hosted:80", "ipv6", "[fd00::9]:80", hostsTTL)
	ok("srv:_http._tcp.svc.example", "ipv4", "10.0.0.1:8001*5 10.0.0.1:8002 10.0.0.2:8002", maxBackoff) // six.example has no A
	ok("srv:_http._tcp.svc.example", "any", "10.0.0.1:8001*5 10.0.0.1:8002 10.0.0.2:8002 [fd00::1]:8002 [fd00::1]:9000!", 30*time.Second)
	ok("srv:_http._tcp.half.example", "any", "10.0.0.1:80", maxBackoff)

	fails("none.example:80", "any", ErrNoSuchName)
	fails("six.example:80", "ipv4", ErrNoSuchName)
	fails("dangling.example:80", "any", ErrNoSuchName)
	fails("six.hosted:80", "ipv4", ErrNoSuchName)
	fails("broken.example:80", "any", nil)
	fails("loop.example:80", "any", nil)
	fails("srv:_http._tcp.none.example", "any", ErrNoSuchName)
	fails("srv:_http._tcp.dead.example", "any", ErrNoSuchName)
	fails("srv:_nope._tcp.example", "any", ErrNoSuchName)
	fails(strings.Repeat("long.", 60)+"example:80", "any", ErrNoSuchName)
}

func TestLookupFollowsAliasesThatTheServerDoesNot(t *testing.T) {
	srv := newDNSServer(t)
	srv.set("CNAME", "alias.example.", 20, "one.example.")
	srv.set("A", "one.example.", 60, "10.0.0.1")
	srv.setForge(func(m dnsmessage.Message) []dnsmessage.Message {
		if len(m.Answers) > 1 {
			m.Answers = m.Answers[:1]
		}
		return []dnsmessage.Message{m}
	})
	ans, err := lookupOnce(testClient(t, "", ""), "alias.example:80", "ipv4", 5*time.Second, nil, srv.addr)
	if err != nil || describe(ans.targets) != "10.0.0.1:80" || ans.ttl != 20*time.Second {
		t.Errorf("%q for %v, error %v", describe(ans.targets), ans.ttl, err)
	}
	if got := fmt.Sprint(srv.questions()); got != "[udp A alias.example. udp A one.example.]" {
		t.Errorf("asked %s", got)
	}
}

func TestLookupOverTCPWhenTruncated(t *testing.T) {
	srv := newDNSServer(t)
	srv.set("A", "big.example.", 60, "10.0.0.1", "10.0.0.2")
	srv.setForge(func(m dnsmessage.Message) []dnsmessage.Message {
		m.Truncated, m.Answers = true, m.Answers[:1]
		return []dnsmessage.Message{m}
	})
	ans, err := lookupOnce(testClient(t, "", ""), "big.example:80", "ipv4", 5*time.Second, nil, srv.addr)
	if err != nil || describe(ans.targets) != "10.0.0.1:80 10.0.0.2:80" {
		t.Errorf("%q, error %v, want the whole answer", describe(ans.targets), err)
	}
	if got := fmt.Sprint(srv.questions()); got != "[udp A big.example. tcp A big.example.]" {
		t.Errorf("asked %s", got)
	}
}

func TestLookupIgnoresForgedAnswers(t *testing.T) {
	srv := newDNSServer(t)
	srv.set("A", "one.example.", 60, "10.0.0.1")
	evil := dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("one.example."), Class: dnsmessage.ClassINET, TTL: 60},
		Body:   &dnsmessage.AResource{A: [4]byte{6, 6, 6, 6}},
	}
	f := func(name string, change func(m *dnsmessage.Message)) {
		t.Helper()
		srv.setForge(func(honest dnsmessage.Message) []dnsmessage.Message {
			forged := honest
			forged.Answers = []dnsmessage.Resource{evil}
			forged.Questions = slices.Clone(honest.Questions)
			change(&forged)
			return []dnsmessage.Message{forged, forged, honest}
		})
		ans, err := lookupOnce(testClient(t, "", ""), "one.example:80", "ipv4", 5*time.Second, nil, srv.addr)
		if err != nil || describe(ans.targets) != "10.0.0.1:80" {
			t.Errorf("%s: %q, error %v, want the honest answer", name, describe(ans.targets), err)
		}
	}
	f("wrong id", func(m *dnsmessage.Message) { m.ID++ })
	f("no response", func(m *dnsmessage.Message) { m.Response = false })
	f("no question", func(m *dnsmessage.Message) { m.Questions = nil })
	f("another name", func(m *dnsmessage.Message) { m.Questions[0].Name = dnsmessage.MustNewName("two.example.") })
	f("another type", func(m *dnsmessage.Message) { m.Questions[0].Type = dnsmessage.TypeAAAA })
	f("another class", func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS })
	f("records of another name", func(m *dnsmessage.Message) {
		m.ID++ // else it would be an honest answer without data
		m.Answers[0].Header.Name = dnsmessage.MustNewName("two.example.")
	})
}

func TestLookupUsesOnlyRecordsOfTheName(t *testing.T) {
	srv := newDNSServer(t)
	srv.set("A", "one.example.", 60, "10.0.0.1")
	srv.setForge(func(m dnsmessage.Message) []dnsmessage.Message {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("other.example."), Class: dnsmessage.ClassINET},
			Body:   &dnsmessage.AResource{A: [4]byte{6, 6, 6, 6}},
		})
		return []dnsmessage.Message{m}
	})
	ans, err := lookupOnce(testClient(t, "", ""), "one.example:80", "ipv4", 5*time.Second, nil, srv.addr)
	if err != nil || describe(ans.targets) != "10.0.0.1:80" || ans.ttl != time.Minute {
		t.Errorf("%q for %v, error %v", describe(ans.targets), ans.ttl, err)
	}
}

// patientLookup is the limit of lookups that meet silence: each question has a part of it,
// and even that must be enough for a busy machine.
const patientLookup = 4 * time.Second

// newSilentServer hears questions and answers none.
func newSilentServer(t testing.TB) *dnsServer {
	t.Helper()
	srv := newDNSServer(t)
	srv.setForge(func(dnsmessage.Message) []dnsmessage.Message { return nil })
	return srv
}

func TestLookupTimesOut(t *testing.T) {
	t.Parallel()
	silent := newSilentServer(t)
	_, err := lookupOnce(testClient(t, "", ""), "one.example:80", "ipv4", patientLookup, nil, silent.addr)
	if !errors.Is(err, ErrLookupTimeout) {
		t.Errorf("error %v, want ErrLookupTimeout", err)
	}
	asked := 0
	testkit.WaitUntil(t, "a silent server is asked twice", func() bool {
		asked += len(silent.questions()) // the last may lie in its socket still
		return asked >= 2
	})
	if asked != 2 {
		t.Errorf("a silent server was asked %d times, want twice", asked)
	}
}

func TestLookupTriesOtherServers(t *testing.T) {
	t.Parallel()
	silent, good, broken := newSilentServer(t), newDNSServer(t), newDNSServer(t)
	good.set("A", "one.example.", 60, "10.0.0.1")
	broken.fail("A", "one.example.", dnsmessage.RCodeRefused)
	for _, first := range []*dnsServer{silent, broken} {
		ans, err := lookupOnce(testClient(t, "", ""), "one.example:80", "ipv4", patientLookup, nil, first.addr, good.addr)
		if err != nil || describe(ans.targets) != "10.0.0.1:80" {
			t.Errorf("%q, error %v, want the second server's answer", describe(ans.targets), err)
		}
	}
}

func TestLookupSurvivesALostPacket(t *testing.T) {
	t.Parallel()
	srv := newDNSServer(t)
	srv.set("A", "one.example.", 60, "10.0.0.1")
	lost := 0
	srv.setForge(func(m dnsmessage.Message) []dnsmessage.Message {
		if lost++; lost == 1 {
			return nil
		}
		return []dnsmessage.Message{m}
	})
	ans, err := lookupOnce(testClient(t, "", ""), "one.example:80", "ipv4", patientLookup, nil, srv.addr)
	if err != nil || describe(ans.targets) != "10.0.0.1:80" {
		t.Errorf("%q, error %v", describe(ans.targets), err)
	}
}

func TestLookupKeepsWhatOnlyHalfFailed(t *testing.T) {
	srv := newDNSServer(t)
	c := testClient(t, "", "")
	srv.set("A", "be.example.", 60, "10.0.0.1")
	srv.set("AAAA", "be.example.", 60, "fd00::1")
	srv.set("SRV", "_h._t.example.", 60, "1 2 80 be.example.", "1 3 81 other.example.")
	srv.set("A", "other.example.", 60, "10.0.0.7")
	host, err1 := lookupOnce(c, "be.example:80", "any", 5*time.Second, nil, srv.addr)
	svc, err2 := lookupOnce(c, "srv:_h._t.example", "any", 5*time.Second, nil, srv.addr)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	f := func(address string, prev answer, want string, ttl time.Duration) {
		t.Helper()
		ans, err := lookupOnce(c, address, "any", 5*time.Second, prev.targets, srv.addr)
		if err != nil || describe(ans.targets) != want || ans.ttl != ttl {
			t.Errorf("%s: %q for %v, error %v, want %q for %v", address, describe(ans.targets), ans.ttl, err, want, ttl)
		}
	}
	srv.set("A", "be.example.", 60, "10.0.0.2")
	srv.fail("AAAA", "be.example.", dnsmessage.RCodeServerFailure)
	f("be.example:80", host, "10.0.0.2:80 [fd00::1]:80", maxBackoff)
	f("be.example:80", answer{}, "10.0.0.2:80", maxBackoff)
	srv.fail("A", "be.example.", dnsmessage.RCodeServerFailure)
	f("srv:_h._t.example", svc, "10.0.0.1:80*2 10.0.0.7:81*3 [fd00::1]:80*2", maxBackoff)
	srv.fail("AAAA", "be.example.", dnsmessage.RCodeSuccess)
	srv.set("AAAA", "be.example.", 0)
	srv.fail("A", "be.example.", dnsmessage.RCodeSuccess)
	f("be.example:80", host, "10.0.0.2:80", time.Minute) // the server says that there is no AAAA
}

func TestLookupDropsUnreachableIPv6(t *testing.T) {
	srv := newDNSServer(t)
	srv.set("A", "both.example.", 60, "10.0.0.1")
	srv.set("AAAA", "both.example.", 60, "fd00::1")
	srv.set("AAAA", "six.example.", 60, "fd00::1")
	c := testClient(t, "", "")
	c.reachable = func(netip.Addr) bool { return false }
	f := func(address, family, want string) {
		t.Helper()
		ans, err := lookupOnce(c, address, family, 5*time.Second, nil, srv.addr)
		if err != nil || describe(ans.targets) != want {
			t.Errorf("%s (%s): %q, error %v, want %q", address, family, describe(ans.targets), err, want)
		}
	}
	f("both.example:80", "any", "10.0.0.1:80")
	f("both.example:80", "ipv6", "[fd00::1]:80") // as it was asked for
	f("six.example:80", "any", "[fd00::1]:80")   // better than none
}

func TestParseResolvConf(t *testing.T) {
	f := func(text, servers, search string, ndots int) {
		t.Helper()
		got := parseResolvConf(text)
		if strings.Join(got.servers, " ") != servers || strings.Join(got.search, " ") != search || got.ndots != ndots {
			t.Errorf("%q: %+v", text, got)
		}
	}
	f("", "127.0.0.1:53 [::1]:53", "", 1)
	f("nameserver 10.0.0.1\nnameserver fd00::1\n", "10.0.0.1:53 [fd00::1]:53", "", 1)
	f("nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n", "10.0.0.1:53 10.0.0.2:53 10.0.0.3:53", "", 1)
	f("# nameserver 1.1.1.1\n; x y\nnameserver nonsense\nnameserver 10.0.0.1", "10.0.0.1:53", "", 1)
	f("search a.test b.test.\n", "127.0.0.1:53 [::1]:53", "a.test b.test", 1)
	f("search a.test\ndomain c.test\n", "127.0.0.1:53 [::1]:53", "c.test", 1)
	f("search .\noptions edns0 ndots:5\n", "127.0.0.1:53 [::1]:53", "", 5)
	f("options ndots:99\n", "127.0.0.1:53 [::1]:53", "", 15)
	f("options ndots:x\n", "127.0.0.1:53 [::1]:53", "", 1)
}

func TestCandidates(t *testing.T) {
	f := func(host string, ndots int, want string, search ...string) {
		t.Helper()
		if got := strings.Join(candidates(host, search, ndots), " "); got != want {
			t.Errorf("candidates(%q, %v, %d) = %s, want %s", host, search, ndots, got, want)
		}
	}
	f("be", 1, "be.")
	f("be", 1, "be.a. be.b. be.", "a", "b")
	f("be.x", 1, "be.x. be.x.a.", "a")
	f("be.x", 2, "be.x.a. be.x.", "a")
	f("be.x.", 5, "be.x.", "a")
}

func TestParseHosts(t *testing.T) {
	const text = "127.0.0.1\tlocalhost\n10.0.0.1 be.example be # the backend\n#10.0.0.2 be\nnonsense be\n10.0.0.3 other BE\n10.0.0.4\n"
	f := func(host, want string) {
		t.Helper()
		if got := fmt.Sprint(parseHosts(text, host)); got != want {
			t.Errorf("parseHosts(%q) = %s, want %s", host, got, want)
		}
	}
	f("be", "[10.0.0.1 10.0.0.3]")
	f("be.example", "[10.0.0.1]")
	f("BE.example.", "[10.0.0.1]")
	f("the", "[]")
	f("none", "[]")
}

func FuzzParseReply(f *testing.F) {
	q := dnsmessage.Question{Name: dnsmessage.MustNewName("be.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, Response: true}, Questions: []dnsmessage.Question{q}}
	seed, _ := m.Pack()
	f.Add(seed)
	f.Add(append(seed, 0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 1, 2, 3, 4))
	f.Fuzz(func(t *testing.T, reply []byte) {
		msg := parseReply(reply, 7, q)
		if msg == nil {
			return
		}
		if msg.ID != 7 || !msg.Response {
			t.Errorf("accepted %+v", msg.Header)
		}
		follow(msg.Answers, "be.example.", q.Type)
	})
}
