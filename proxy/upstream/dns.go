package upstream

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"tickgate/config"
)

const (
	// udpPayload is the size of answers over UDP that is asked for (EDNS0, RFC 6891): what passes
	// without fragmentation (DNS flag day 2020). What is larger comes over TCP.
	udpPayload = 1232
	// maxChain bounds the CNAME records followed.
	maxChain = 16
	// maxSRVTargets bounds the hosts of one SRV answer that are looked up.
	maxSRVTargets = 64
	// hostsTTL is how long an entry of /etc/hosts is trusted.
	hostsTTL = 30 * time.Second
)

// dnsClient is a stub resolver (RFC 1035). The standard library's gives no TTLs,
// which is why there is one here.
type dnsClient struct {
	hostsFile  string
	resolvConf string
	// reachable reports whether this machine has a route to an address.
	reachable func(netip.Addr) bool
}

func newDNSClient() *dnsClient {
	return &dnsClient{hostsFile: "/etc/hosts", resolvConf: "/etc/resolv.conf", reachable: hasRoute}
}

// hasRoute asks the kernel by connecting a UDP socket, which sends nothing.
func hasRoute(a netip.Addr) bool {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 9)))
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// lookup implements lookuper.
func (c *dnsClient) lookup(ctx context.Context, o origin, cfg *config.Resolver, prev []target) (answer, error) {
	q := c.session(cfg)
	var ans answer
	var err error
	if o.kind == srvName {
		ans, err = q.srv(ctx, o.host, prev)
	} else {
		ans, err = q.host(ctx, o.host, o.port, prev)
	}
	if err == nil && len(ans.targets) == 0 {
		err = ErrNoSuchName
	}
	if err != nil {
		return answer{}, fmt.Errorf("look up %q: %w", o.host, err)
	}
	slices.SortFunc(ans.targets, compareTargets)
	ans.targets = slices.Compact(ans.targets)
	return ans, nil
}

func compareTargets(a, b target) int {
	if c := strings.Compare(a.address, b.address); c != 0 {
		return c
	}
	if c := strings.Compare(a.name, b.name); c != 0 {
		return c
	}
	return a.weight - b.weight
}

// session is one lookup with all its queries.
type session struct {
	c       *dnsClient
	servers []string
	search  []string
	ndots   int
	family  string
}

// session reads the system's settings anew, as they change while running.
func (c *dnsClient) session(cfg *config.Resolver) *session {
	text, _ := os.ReadFile(c.resolvConf) // without the file the defaults hold, as in resolv.conf(5)
	sys := parseResolvConf(string(text))
	s := &session{c: c, servers: sys.servers, search: sys.search, ndots: sys.ndots, family: cfg.Family}
	if len(cfg.Servers) > 0 {
		s.servers = cfg.Servers
	}
	return s
}

// host looks up the addresses of a name.
func (s *session) host(ctx context.Context, host, port string, prev []target) (answer, error) {
	addrs, ttl, err := s.addresses(ctx, host, addressesOf(prev, host))
	if err != nil {
		return answer{}, err
	}
	ans := answer{ttl: ttl}
	for _, a := range addrs {
		ans.targets = append(ans.targets, target{
			network: "tcp", address: net.JoinHostPort(a.String(), port), weight: 1, name: strings.TrimSuffix(host, "."), port: port,
		})
	}
	return ans, nil
}

// addressesOf returns the addresses that prev has for a host.
func addressesOf(prev []target, host string) []netip.Addr {
	var out []netip.Addr
	for _, t := range prev {
		if ap, err := netip.ParseAddrPort(t.address); err == nil && t.name == strings.TrimSuffix(host, ".") {
			out = append(out, ap.Addr())
		}
	}
	return out
}

// srv looks up SRV records (RFC 2782) and the addresses of their targets. The lowest
// priority is used, the others are backups.
func (s *session) srv(ctx context.Context, service string, prev []target) (answer, error) {
	records, ttl, err := s.searched(ctx, service, dnsmessage.TypeSRV)
	if err != nil {
		return answer{}, err
	}
	srvs := srvRecords(records)
	if len(srvs) == 0 {
		return answer{}, ErrNoSuchName
	}
	best := slices.MinFunc(srvs, func(a, b dnsmessage.SRVResource) int { return int(a.Priority) - int(b.Priority) }).Priority
	ans := answer{ttl: ttl}
	var mu sync.Mutex // guards ans and firstErr
	var firstErr error
	var wg sync.WaitGroup
	for _, rec := range srvs {
		wg.Go(func() {
			host, port := rec.Target.String(), strconv.Itoa(int(rec.Port))
			part, err := s.host(ctx, host, port, prev)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				firstErr = err
				part = answer{targets: targetsOf(prev, host, port), ttl: maxBackoff} // keep what is known of this host
			}
			ans.ttl = min(ans.ttl, part.ttl)
			for _, t := range part.targets {
				t.weight, t.backup = max(1, int(rec.Weight)), rec.Priority != best
				ans.targets = append(ans.targets, t)
			}
		})
	}
	wg.Wait()
	if len(ans.targets) == 0 {
		return answer{}, firstErr
	}
	return ans, nil
}

// srvRecords returns the usable records: a target of "." says that there is no such service.
func srvRecords(records []dnsmessage.Resource) []dnsmessage.SRVResource {
	var out []dnsmessage.SRVResource
	for _, r := range records {
		if body, ok := r.Body.(*dnsmessage.SRVResource); ok && body.Target.String() != "." && len(out) < maxSRVTargets {
			out = append(out, *body)
		}
	}
	return out
}

func targetsOf(prev []target, host, port string) []target {
	return slices.DeleteFunc(slices.Clone(prev), func(t target) bool {
		return t.name != strings.TrimSuffix(host, ".") || t.port != port
	})
}

// addresses returns the addresses of a host: from /etc/hosts, else from DNS. prev is what
// is known: if the query for one family fails while the other is answered, that family's known addresses stay.
func (s *session) addresses(ctx context.Context, host string, prev []netip.Addr) ([]netip.Addr, time.Duration, error) {
	text, _ := os.ReadFile(s.c.hostsFile)
	if addrs := s.wanted(parseHosts(string(text), host)); len(addrs) > 0 {
		return addrs, hostsTTL, nil
	}
	var v4, v6 result
	var wg sync.WaitGroup
	if s.family != "ipv6" {
		wg.Go(func() { v4 = s.family1(ctx, host, dnsmessage.TypeA) })
	}
	if s.family != "ipv4" {
		wg.Go(func() { v6 = s.family1(ctx, host, dnsmessage.TypeAAAA) })
	}
	wg.Wait()
	both := slices.Concat(v4.addrs, v6.addrs)
	if len(both) == 0 {
		return nil, 0, worse(v4.err, v6.err)
	}
	ttl := time.Duration(1<<63 - 1)
	for _, r := range []struct {
		result
		is func(netip.Addr) bool
	}{{v4, netip.Addr.Is4}, {v6, netip.Addr.Is6}} {
		switch {
		case len(r.addrs) > 0:
			ttl = min(ttl, r.ttl)
		case r.err != nil && !errors.Is(r.err, ErrNoSuchName):
			ttl = min(ttl, maxBackoff)
			both = append(both, slices.DeleteFunc(slices.Clone(prev), func(a netip.Addr) bool { return !r.is(a) })...)
		}
	}
	return s.wanted(both), ttl, nil
}

// result is the answer for one address family.
type result struct {
	addrs []netip.Addr
	ttl   time.Duration
	err   error
}

// worse picks the error that says less about the name: a name whose A query timed out and that has no AAAA
// records may exist.
func worse(a, b error) error {
	if a == nil || (b != nil && errors.Is(a, ErrNoSuchName)) {
		return b
	}
	return a
}

// wanted keeps the addresses of resolver.family. With both families, IPv6 addresses go if
// this machine has no route to any of them: each would only be a failed attempt.
func (s *session) wanted(addrs []netip.Addr) []netip.Addr {
	var v4, v6 []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	switch {
	case s.family == "ipv4":
		return v4
	case s.family == "ipv6":
		return v6
	case len(v4) > 0 && len(v6) > 0 && !slices.ContainsFunc(v6, s.c.reachable):
		return v4
	}
	return append(v4, v6...)
}

func (s *session) family1(ctx context.Context, host string, typ dnsmessage.Type) result {
	records, ttl, err := s.searched(ctx, host, typ)
	r := result{ttl: ttl, err: err}
	for _, rec := range records {
		switch body := rec.Body.(type) {
		case *dnsmessage.AResource:
			r.addrs = append(r.addrs, netip.AddrFrom4(body.A))
		case *dnsmessage.AAAAResource:
			r.addrs = append(r.addrs, netip.AddrFrom16(body.AAAA).Unmap())
		}
	}
	return r
}

// searched asks for a name, completed by the search list where that applies.
func (s *session) searched(ctx context.Context, host string, typ dnsmessage.Type) ([]dnsmessage.Resource, time.Duration, error) {
	var failed error
	for _, full := range candidates(host, s.search, s.ndots) {
		records, ttl, err := s.chased(ctx, full, typ)
		if err == nil {
			return records, ttl, nil
		}
		failed = worse(err, failed)
	}
	return nil, 0, failed
}

// chased asks for a name, and again for where its CNAME records lead if the answer
// does not say that as well.
func (s *session) chased(ctx context.Context, full string, typ dnsmessage.Type) ([]dnsmessage.Resource, time.Duration, error) {
	ttl := maxTTL
	for range maxChain {
		msg, err := s.ask(ctx, full, typ)
		if err != nil {
			return nil, 0, err
		}
		records, end, least := follow(msg.Answers, full, typ)
		ttl = min(ttl, least)
		if len(records) > 0 {
			return records, ttl, nil
		}
		if end == "" {
			break
		}
		if strings.EqualFold(end, full) {
			return nil, 0, ErrNoSuchName
		}
		full = end
	}
	return nil, 0, errors.New("CNAME chain is too long or a circle")
}

// follow returns the records of typ at the end of the CNAME chain that begins at
// name, the name at that end ("" if there is none), and the least TTL on the way.
func follow(answers []dnsmessage.Resource, name string, typ dnsmessage.Type) (records []dnsmessage.Resource, end string, ttl time.Duration) {
	ttl, end = maxTTL, name
	for range maxChain {
		next := ""
		for _, r := range answers {
			if !strings.EqualFold(r.Header.Name.String(), end) {
				continue
			}
			if r.Header.Type == typ {
				records = append(records, r)
				ttl = min(ttl, time.Duration(r.Header.TTL)*time.Second)
			}
			if body, ok := r.Body.(*dnsmessage.CNAMEResource); ok && next == "" {
				next = body.CNAME.String()
				ttl = min(ttl, time.Duration(r.Header.TTL)*time.Second)
			}
		}
		if len(records) > 0 || next == "" {
			return records, end, ttl
		}
		end = next
	}
	return nil, "", ttl
}

// ask sends a question to the servers in turn, twice each, so that one lost packet
// does not fail the lookup, and returns the first answer that settles it. The time left is shared out evenly.
func (s *session) ask(ctx context.Context, full string, typ dnsmessage.Type) (*dnsmessage.Message, error) {
	name, err := dnsmessage.NewName(full)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoSuchName, err)
	}
	const rounds = 2
	var last error
	for i := range rounds * len(s.servers) {
		left := rounds*len(s.servers) - i
		msg, err := s.exchange(ctx, s.servers[i%len(s.servers)], dnsmessage.Question{Name: name, Type: typ, Class: dnsmessage.ClassINET}, left)
		switch {
		case err != nil:
			last = err
		case msg.RCode == dnsmessage.RCodeSuccess:
			return msg, nil
		case msg.RCode == dnsmessage.RCodeNameError:
			return nil, ErrNoSuchName
		default:
			last = fmt.Errorf("DNS server %q answers %v", s.servers[i%len(s.servers)], msg.RCode)
		}
		if ctx.Err() != nil {
			return nil, ErrLookupTimeout
		}
	}
	return nil, last
}

// exchange asks one server once, over UDP, then over TCP if the answer did not fit
// (RFC 7766). It takes at most a left-th of the time that ctx leaves.
func (s *session) exchange(ctx context.Context, server string, q dnsmessage.Question, left int) (*dnsmessage.Message, error) {
	if end, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/time.Duration(left))
		defer cancel()
	}
	query, id, err := packQuery(q)
	if err != nil {
		return nil, err
	}
	msg, err := roundTrip(ctx, "udp", server, query, id, q)
	if err == nil && msg.Truncated {
		msg, err = roundTrip(ctx, "tcp", server, query, id, q)
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return nil, fmt.Errorf("%w: DNS server %q", ErrLookupTimeout, server)
	}
	return msg, err
}

// packQuery makes a query with an id nobody can guess. The source port is as
// random, as each query has a socket of its own (RFC 5452).
func packQuery(q dnsmessage.Question) (query []byte, id uint16, err error) {
	var seed [2]byte
	_, _ = crand.Read(seed[:]) // never fails
	id = binary.BigEndian.Uint16(seed[:])
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id, RecursionDesired: true})
	var opt dnsmessage.ResourceHeader
	err = errors.Join(
		b.StartQuestions(), b.Question(q), b.StartAdditionals(),
		opt.SetEDNS0(udpPayload, dnsmessage.RCodeSuccess, false), b.OPTResource(opt, dnsmessage.OPTResource{}),
	)
	if err != nil {
		return nil, 0, err
	}
	query, err = b.Finish()
	return query, id, err
}

// roundTrip sends a query and waits for its answer. What does not answer it is
// ignored over UDP, where anyone can send, and an error over TCP.
func roundTrip(ctx context.Context, network, server string, query []byte, id uint16, q dnsmessage.Question) (*dnsmessage.Message, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// The context ends the reads by their deadline: at its own, or at once.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if network == "tcp" {
		return roundTripTCP(conn, query, id, q)
	}
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, 1<<16-1)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if msg := parseReply(buf[:n], id, q); msg != nil {
			return msg, nil
		}
	}
}

func roundTripTCP(conn net.Conn, query []byte, id uint16, q dnsmessage.Question) (*dnsmessage.Message, error) {
	framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	if _, err := conn.Write(framed); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	reply := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, reply); err != nil {
		return nil, err
	}
	if msg := parseReply(reply, id, q); msg != nil {
		return msg, nil
	}
	return nil, errors.New("DNS answer does not fit the question")
}

// parseReply returns the message if it is a sound answer to the question that had id.
func parseReply(reply []byte, id uint16, q dnsmessage.Question) *dnsmessage.Message {
	var p dnsmessage.Parser
	h, err := p.Start(reply)
	if err != nil || h.ID != id || !h.Response {
		return nil
	}
	got, err := p.Question()
	if err != nil || got.Type != q.Type || got.Class != q.Class || !strings.EqualFold(got.Name.String(), q.Name.String()) {
		return nil
	}
	if err := p.SkipAllQuestions(); err != nil {
		return nil
	}
	msg := &dnsmessage.Message{Header: h}
	if h.Truncated {
		return msg // what follows may end anywhere
	}
	if msg.Answers, err = p.AllAnswers(); err != nil {
		return nil
	}
	return msg
}
