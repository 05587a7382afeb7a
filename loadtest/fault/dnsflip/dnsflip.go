// Package dnsflip is a name server for loopback whose answers change while it runs: other
// addresses, no such name, failures, silence, slow and truncated answers, any TTL. It
// answers A and AAAA questions over UDP and TCP (RFC 1035), for the names that it was told
// of and no others.
package dnsflip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"tickgate/loadtest/pace"
)

// ErrAnswer is returned for an answer that cannot be given.
var ErrAnswer = errors.New("dnsflip: bad answer")

// Mode is how a name is answered.
type Mode string

// The modes.
const (
	ModeAnswer    Mode = "answer"    // with its addresses
	ModeNXDomain  Mode = "nxdomain"  // there is no such name
	ModeServFail  Mode = "servfail"  // the server failed
	ModeRefused   Mode = "refused"   // the server will not say
	ModeSilent    Mode = "silent"    // not at all
	ModeTruncated Mode = "truncated" // over UDP with nothing but the TC bit; TCP has the answer
)

// Answer is what is said of a name.
type Answer struct {
	Mode Mode `yaml:"mode" default:"answer" enum:"answer|nxdomain|servfail|refused|silent|truncated"`
	// IP addresses, of both families if need be. None is an answer without records.
	Addresses []string `yaml:"addresses"`
	// Time that the records may be kept, in whole seconds.
	TTL time.Duration `yaml:"ttl" default:"1s" min:"0s"`
	// Time before the answer.
	Delay time.Duration `yaml:"delay" min:"0s"`
}

const (
	// mostAtOnce bounds the answers under way and the TCP connections; what comes beyond is
	// dropped, as by a busy server.
	mostAtOnce = 256
	// idleTimeout is how long a TCP connection may be silent.
	idleTimeout = 10 * time.Second
	// mostMessage is the longest UDP question.
	mostMessage = 4096
	// attempts is how often a port that is free for both protocols is looked for.
	attempts = 20
)

// record is an answer with its addresses read.
type record struct {
	Answer
	v4, v6 []netip.Addr
}

// Server answers until Close.
type Server struct {
	udp  *net.UDPConn
	tcp  *net.TCPListener
	ctx  context.Context // ends with Close
	stop context.CancelFunc
	all  sync.WaitGroup
	// slots bounds what is under way.
	slots chan struct{}

	questions, dropped atomic.Int64

	mu    sync.Mutex
	names map[string]*record // guarded by mu; by lower-case name with a final dot
}

// New listens on a loopback host:port, for UDP and TCP; port 0 is any that is free for both.
func New(listen string) (*Server, error) {
	udp, tcp, err := listenBoth(listen)
	if err != nil {
		return nil, fmt.Errorf("dnsflip: %w", err)
	}
	s := &Server{udp: udp, tcp: tcp, slots: make(chan struct{}, mostAtOnce), names: make(map[string]*record)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.all.Go(s.serveUDP)
	s.all.Go(s.serveTCP)
	return s, nil
}

// listenBoth listens on the same port twice.
func listenBoth(listen string) (*net.UDPConn, *net.TCPListener, error) {
	addr, err := net.ResolveTCPAddr("tcp", listen)
	if err != nil {
		return nil, nil, err
	}
	for i := 1; ; i++ {
		tcp, err := net.ListenTCP("tcp", addr)
		if err != nil {
			return nil, nil, err
		}
		at := tcp.Addr().(*net.TCPAddr)
		udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: at.Port, Zone: at.Zone})
		if err == nil {
			return udp, tcp, nil
		}
		_ = tcp.Close()
		if addr.Port != 0 || i == attempts {
			return nil, nil, err
		}
	}
}

// Addr is the host:port of the server.
func (s *Server) Addr() string { return s.tcp.Addr().String() }

// Questions is how many were asked, and Dropped how many of them got no answer because too
// many were under way.
func (s *Server) Questions() int64 { return s.questions.Load() }

// Dropped counts what there was no room for.
func (s *Server) Dropped() int64 { return s.dropped.Load() }

// Set replaces the answer for a name. It returns ErrAnswer for what cannot be said.
func (s *Server) Set(name string, a Answer) error {
	r := &record{Answer: a}
	if r.Mode == "" {
		r.Mode = ModeAnswer
	}
	if _, err := dnsmessage.NewName(canonical(name)); err != nil || name == "" {
		return fmt.Errorf("%w: name %q", ErrAnswer, name)
	}
	for _, text := range a.Addresses {
		ip, err := netip.ParseAddr(text)
		switch {
		case err != nil || ip.Zone() != "":
			return fmt.Errorf("%w: %q is no IP address", ErrAnswer, text)
		case ip.Unmap().Is4():
			r.v4 = append(r.v4, ip.Unmap())
		default:
			r.v6 = append(r.v6, ip)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[canonical(name)] = r
	return nil
}

// Answer returns what is said of a name; that there is no such name, if it was never set.
func (s *Server) Answer(name string) Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.names[canonical(name)]; r != nil {
		return r.Answer
	}
	return Answer{Mode: ModeNXDomain}
}

func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) + "." }

// Close ends the server and waits for what is under way. It may be called more than once.
func (s *Server) Close() {
	s.stop()
	_ = s.udp.Close()
	_ = s.tcp.Close()
	s.all.Wait()
}

// slot takes one of what may be under way.
func (s *Server) slot() bool {
	select {
	case s.slots <- struct{}{}:
		return true
	default:
		s.dropped.Add(1)
		return false
	}
}

func (s *Server) serveUDP() {
	buf := make([]byte, mostMessage)
	for {
		n, from, err := s.udp.ReadFromUDPAddrPort(buf)
		if s.ctx.Err() != nil {
			return
		}
		if err != nil || !s.slot() {
			continue // such as the port of an earlier answer being unreachable
		}
		question := append([]byte(nil), buf[:n]...)
		s.all.Go(func() {
			defer func() { <-s.slots }()
			if b := s.answer(question, true); b != nil {
				_, _ = s.udp.WriteToUDPAddrPort(b, from)
			}
		})
	}
}

func (s *Server) serveTCP() {
	for {
		conn, err := s.tcp.AcceptTCP()
		switch {
		case s.ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return
		case err != nil:
			pace.Sleep(s.ctx, 20*time.Millisecond) // out of descriptors
			continue
		case !s.slot():
			_ = conn.Close()
			continue
		}
		s.all.Go(func() {
			defer func() { <-s.slots }()
			s.converse(conn)
		})
	}
}

// converse answers the questions of one TCP connection (RFC 1035 section 4.2.2).
func (s *Server) converse(conn *net.TCPConn) {
	defer context.AfterFunc(s.ctx, func() { _ = conn.Close() })()
	defer func() { _ = conn.Close() }()
	var length [2]byte
	for {
		_ = conn.SetDeadline(time.Now().Add(idleTimeout))
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		question := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, question); err != nil {
			return
		}
		b := s.answer(question, false)
		if b == nil {
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(idleTimeout))
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)); err != nil {
			return
		}
	}
}

// answer returns the response to a question, after its delay; nil is none.
func (s *Server) answer(question []byte, udp bool) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(question)
	if err != nil || h.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	s.questions.Add(1)
	s.mu.Lock()
	r := s.names[canonical(q.Name.String())]
	s.mu.Unlock()
	if r == nil {
		r = &record{Answer: Answer{Mode: ModeNXDomain}}
	}
	if r.Mode == ModeSilent || r.Delay > 0 && !pace.Sleep(s.ctx, r.Delay) {
		return nil
	}
	return r.response(h, q, udp)
}

// rcodes are the codes of modes that are no answers.
var rcodes = map[Mode]dnsmessage.RCode{
	ModeNXDomain: dnsmessage.RCodeNameError, ModeServFail: dnsmessage.RCodeServerFailure, ModeRefused: dnsmessage.RCodeRefused,
}

// response writes the message.
func (r *record) response(h dnsmessage.Header, q dnsmessage.Question, udp bool) []byte {
	m := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: h.ID, Response: true, Authoritative: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired, RecursionAvailable: true,
			RCode: rcodes[r.Mode], Truncated: udp && r.Mode == ModeTruncated,
		},
		Questions: []dnsmessage.Question{q},
	}
	if m.RCode == dnsmessage.RCodeSuccess && !m.Truncated {
		m.Answers = r.records(q)
	}
	b, err := m.Pack()
	if err != nil || len(b) > 1<<16-1 {
		return nil
	}
	const mostUDP = 512 // without EDNS, which is not read (RFC 1035 section 2.3.4)
	if udp && len(b) > mostUDP {
		m.Truncated, m.Answers = true, nil
		b, _ = m.Pack() // it packed with more
	}
	return b
}

// records lists the addresses of the family that was asked for.
func (r *record) records(q dnsmessage.Question) (list []dnsmessage.Resource) {
	h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: uint32(r.TTL / time.Second)}
	switch q.Type {
	case dnsmessage.TypeA:
		for _, ip := range r.v4 {
			list = append(list, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: ip.As4()}})
		}
	case dnsmessage.TypeAAAA:
		for _, ip := range r.v6 {
			list = append(list, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: ip.As16()}})
		}
	}
	return list
}
