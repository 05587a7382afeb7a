package demo

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gobwas/ws"
)

// listed are the instruments of the synthetic market with their opening prices.
var listed = []struct {
	symbol string
	open   float64
}{
	{"BTC-USD", 97250},
	{"ETH-USD", 3410},
	{"SOL-USD", 187.4},
	{"EUR-USD", 1.0842},
	{"AAPL", 231.3},
	{"MSFT", 428.9},
	{"NVDA", 142.6},
	{"TSLA", 341.2},
}

// Quote is one price of one symbol, as JSON over HTTP, SSE and WebSocket.
type Quote struct {
	// Type is "tick".
	Type string `json:"type"`
	// Symbol is the instrument.
	Symbol string `json:"symbol"`
	// Seq counts this symbol's quotes from 1, without gaps.
	Seq uint64 `json:"seq"`
	// Bid, Ask and Last are prices.
	Bid  float64 `json:"bid"`
	Ask  float64 `json:"ask"`
	Last float64 `json:"last"`
	// Open is the price at the start, for the change of the day.
	Open float64 `json:"open"`
	// Time is when the quote was made, in milliseconds since 1970.
	Time int64 `json:"ts"`
}

// instrument is one symbol's state.
type instrument struct {
	quote Quote
	subs  map[*session]struct{}
}

// market is the random walk and who follows it.
type market struct {
	order []string // static

	mu          sync.Mutex
	instruments map[string]*instrument
	sessions    map[*session]struct{}
	closed      bool

	ending sync.WaitGroup // sessions not yet over
}

func newMarket() *market {
	m := &market{instruments: make(map[string]*instrument, len(listed)), sessions: map[*session]struct{}{}}
	now := time.Now()
	for _, l := range listed {
		in := &instrument{subs: map[*session]struct{}{}}
		in.quote = Quote{Type: "tick", Symbol: l.symbol, Last: l.open, Open: l.open}
		in.step(now, 0)
		m.instruments[l.symbol] = in
		m.order = append(m.order, l.symbol)
	}
	return m
}

// step makes the next quote, drift away from the last.
func (in *instrument) step(now time.Time, drift float64) {
	q := &in.quote
	digits := 100.0
	if q.Open < 10 {
		digits = 1e4
	}
	round := func(x float64) float64 { return math.Round(x*digits) / digits }
	q.Seq++
	q.Last = round(q.Last * (1 + drift))
	spread := max(1/digits, q.Last*0.0001)
	q.Bid, q.Ask = round(q.Last-spread/2), round(q.Last+spread/2)
	q.Time = now.UnixMilli()
}

// run ticks until ctx ends.
func (m *market) run(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			m.tick(now)
		case <-ctx.Done():
			return
		}
	}
}

// tick moves about two thirds of the symbols and tells their subscribers. A frame
// is made once and shared: server frames are not masked.
func (m *market) tick(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, symbol := range m.order {
		if rand.IntN(3) == 0 {
			continue
		}
		in := m.instruments[symbol]
		in.step(now, rand.NormFloat64()*0.0006)
		if len(in.subs) == 0 {
			continue
		}
		frame := textFrame(in.quote)
		for s := range in.subs {
			s.offer(frame)
		}
	}
}

// textFrame encodes v as a text message. The newline is for people who watch the
// raw stream.
func textFrame(v any) []byte {
	return ws.MustCompileFrame(ws.NewTextFrame(append(mustJSON(v), '\n')))
}

// symbols lists all symbols in their order.
func (m *market) symbols() []string { return m.order }

// quote returns the last quote of a symbol.
func (m *market) quote(symbol string) (Quote, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	in, ok := m.instruments[symbol]
	if !ok {
		return Quote{}, false
	}
	return in.quote, true
}

// join admits a session, unless the market is closed.
func (m *market) join(s *session) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.sessions[s] = struct{}{}
	m.ending.Add(1)
	return true
}

// leave forgets a session.
func (m *market) leave(s *session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, in := range m.instruments {
		delete(in.subs, s)
	}
	delete(m.sessions, s)
	m.ending.Done()
}

// subscribe adds s to the symbols ("*" is all), answers with the list and sends
// their last quotes. It returns the first unknown symbol, with nothing changed.
func (m *market) subscribe(s *session, symbols []string) (unknown string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	symbols, unknown = m.expandLocked(symbols)
	if unknown != "" {
		return unknown
	}
	s.offer(textFrame(map[string]any{"type": "subscribed", "symbols": symbols}))
	for _, symbol := range symbols {
		in := m.instruments[symbol]
		in.subs[s] = struct{}{}
		s.offer(textFrame(in.quote))
	}
	return ""
}

// unsubscribe removes s from the symbols and answers with the list.
func (m *market) unsubscribe(s *session, symbols []string) (unknown string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	symbols, unknown = m.expandLocked(symbols)
	if unknown != "" {
		return unknown
	}
	for _, symbol := range symbols {
		delete(m.instruments[symbol].subs, s)
	}
	s.offer(textFrame(map[string]any{"type": "unsubscribed", "symbols": symbols}))
	return ""
}

// expandLocked resolves "*" and finds a symbol that is not listed.
func (m *market) expandLocked(symbols []string) (known []string, unknown string) {
	for _, symbol := range symbols {
		if symbol == "*" {
			return m.order, ""
		}
		if m.instruments[symbol] == nil {
			return nil, symbol
		}
	}
	return symbols, ""
}

// close tells every session to end and waits until they have.
func (m *market) close() {
	m.mu.Lock()
	m.closed = true
	for s := range m.sessions {
		s.end(ws.StatusGoingAway, "the demonstration stops")
	}
	m.mu.Unlock()
	m.ending.Wait()
}
