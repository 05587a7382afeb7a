package dnsflip

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// patience bounds every wait for the server.
const patience = 20 * time.Second

func started(t *testing.T) *Server {
	t.Helper()
	s, err := New("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// resolver asks the server; used collects the networks it was asked over.
func resolver(s *Server, used *[]string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		if used != nil {
			*used = append(*used, network)
		}
		var d net.Dialer
		return d.DialContext(ctx, network, s.Addr())
	}}
}

// lookup returns the IPv4 addresses of a name, sorted and joined.
func lookup(t *testing.T, r *net.Resolver, name string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ips, err := r.LookupNetIP(ctx, "ip4", name)
	var texts []string
	for _, ip := range ips {
		texts = append(texts, ip.Unmap().String())
	}
	slices.Sort(texts)
	return strings.Join(texts, " "), err
}

func set(t *testing.T, s *Server, name string, a Answer) {
	t.Helper()
	if err := s.Set(name, a); err != nil {
		t.Fatal(err)
	}
}

func TestFlips(t *testing.T) {
	s := started(t)
	r := resolver(s, nil)
	f := func(a Answer, want string, wantErr func(*net.DNSError) bool) {
		t.Helper()
		set(t, s, "Quotes.test", a)
		got, err := lookup(t, r, "quotes.test.")
		var dnsErr *net.DNSError
		switch {
		case wantErr == nil && (err != nil || got != want):
			t.Errorf("%+v: %q, %v; want %q", a, got, err, want)
		case wantErr != nil && (!errors.As(err, &dnsErr) || !wantErr(dnsErr)):
			t.Errorf("%+v: %q, %v", a, got, err)
		}
	}
	f(Answer{Addresses: []string{"127.0.0.2", "127.0.0.3"}}, "127.0.0.2 127.0.0.3", nil)
	f(Answer{Addresses: []string{"127.0.0.4", "::1"}}, "127.0.0.4", nil)
	f(Answer{Mode: ModeNXDomain}, "", func(e *net.DNSError) bool { return e.IsNotFound })
	f(Answer{Mode: ModeServFail}, "", func(e *net.DNSError) bool { return e.IsTemporary })
	f(Answer{Addresses: []string{"::1"}}, "", func(e *net.DNSError) bool { return e.IsNotFound })
	f(Answer{Addresses: []string{"::ffff:127.0.0.9"}}, "127.0.0.9", nil)
	if _, err := lookup(t, r, "other.test."); err == nil {
		t.Error("a name that nobody set is known")
	}
	if s.Questions() == 0 {
		t.Error("no question was counted")
	}
}

func TestTruncatedGoesToTCP(t *testing.T) {
	s := started(t)
	var used []string
	r := resolver(s, &used)
	set(t, s, "a.test", Answer{Mode: ModeTruncated, Addresses: []string{"127.0.0.2"}})
	if got, err := lookup(t, r, "a.test."); got != "127.0.0.2" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if !slices.Contains(used, "tcp") {
		t.Errorf("asked over %q", used)
	}

	var many []string
	ip := netip.MustParseAddr("127.1.0.1")
	for range 100 {
		many, ip = append(many, ip.String()), ip.Next()
	}
	set(t, s, "many.test", Answer{Addresses: many})
	if got, err := lookup(t, r, "many.test."); len(strings.Fields(got)) != 100 || err != nil {
		t.Errorf("%d addresses, %v; want 100", len(strings.Fields(got)), err)
	}
}

func TestDelayAndSilence(t *testing.T) {
	s := started(t)
	const delay = 60 * time.Millisecond
	set(t, s, "slow.test", Answer{Addresses: []string{"127.0.0.2"}, Delay: delay})
	began := time.Now()
	if got, err := lookup(t, resolver(s, nil), "slow.test."); got != "127.0.0.2" || err != nil || time.Since(began) < delay {
		t.Errorf("%q, %v after %v", got, err, time.Since(began))
	}
	set(t, s, "silent.test", Answer{Mode: ModeSilent})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := resolver(s, nil).LookupNetIP(ctx, "ip4", "silent.test."); err == nil {
		t.Error("silence was an answer")
	}
}

func TestTTL(t *testing.T) {
	s := started(t)
	set(t, s, "a.test", Answer{Addresses: []string{"127.0.0.2"}, TTL: 7 * time.Second})
	conn, err := net.Dial("udp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	q := dnsmessage.Message{Header: dnsmessage.Header{ID: 9}, Questions: []dnsmessage.Question{{
		Name: dnsmessage.MustNewName("A.TEST."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET,
	}}}
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	for _, datagram := range [][]byte{[]byte("x"), b} { // one that is no message is passed over
		if _, err := conn.Write(datagram); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 512)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(buf[:n]); err != nil || m.ID != 9 || len(m.Answers) != 1 || m.Answers[0].Header.TTL != 7 {
		t.Errorf("%v, %+v", err, m)
	}
}

func TestSetFails(t *testing.T) {
	s := started(t)
	f := func(name string, a Answer) {
		t.Helper()
		if err := s.Set(name, a); !errors.Is(err, ErrAnswer) {
			t.Errorf("%q, %+v: %v", name, a, err)
		}
	}
	f("", Answer{})
	f(strings.Repeat("a", 300), Answer{})
	f("a.test", Answer{Addresses: []string{"a.b"}})
	f("a.test", Answer{Addresses: []string{"fe80::1%lo"}})
	if _, err := New(s.Addr()); err == nil {
		t.Error("an address was had twice")
	}
	s.Close()
	s.Close()
}
