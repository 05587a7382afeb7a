package proxy_test

import (
	"testing"

	"tickgate/internal/h1/corpus"
)

// FuzzGateway sends raw bytes to a gateway and judges them as TestHostileRequests
// does: whatever they are, the backend sees nothing but what a strict server reads in
// them, and the client gets nothing but whole responses.
//
//	go test -run '^$' -fuzz FuzzGateway ./proxy
func FuzzGateway(f *testing.F) {
	for _, list := range [][]corpus.Case{corpus.Sound, corpus.Requests, smuggling} {
		for _, c := range list {
			f.Add([]byte(c.Raw), uint16(0))
			f.Add([]byte(goodRequest("before")+c.Raw), uint16(len(c.Raw)/2))
		}
	}
	// One gateway and one backend for each process: an exec costs a connection.
	w := newWitness(f)
	g := startHostile(f, "timeouts: {head: 5s, body: 5s}\nupstreams: {be: {servers: [{address: \""+w.Addr()+"\"}]}}\nroutes: [{upstream: be}]\n")
	n := 0
	f.Fuzz(func(t *testing.T, raw []byte, cut uint16) {
		s := &shot{raw: string(raw)}
		if int(cut) < len(raw) {
			s.cuts = []int{int(cut)}
		}
		n++
		source := 1<<16 + n%(1<<22)
		o, err := g.fire(s, source)
		if err == nil {
			err = s.judge(o, w.of(source))
		}
		if err != nil {
			t.Errorf("%v\nsent %q\ncuts %v", err, s.raw, s.cuts)
		}
		checkRecord(t, w)
		w.Forget()
	})
}
