package h1

import (
	"errors"
	"math/rand/v2"
	"testing"

	"tickgate/internal/h1/corpus"
	"tickgate/internal/reason"
)

// incomplete stands for a message that needs more bytes.
const incomplete = reason.HeadTimeout

// ends tells the reason in an error of this package.
func ends(t testing.TB, err error) reason.Reason {
	t.Helper()
	var r reason.Reason
	if err != nil && !errors.As(err, &r) {
		t.Fatalf("error %v is no reason", err)
	}
	return r
}

// readRequest reads a request with its body as a server does that gets it in pieces of step bytes.
func readRequest(t testing.TB, h *RequestHead, raw string, step int) reason.Reason {
	t.Helper()
	h.Reset()
	n := 0
	for end := 0; n == 0; {
		if end == len(raw) {
			return incomplete
		}
		end = min(end+step, len(raw))
		// A fresh copy each time: the parser may keep nothing but offsets.
		var err error
		if n, err = h.Parse([]byte(raw[:end]), nil); err != nil {
			return ends(t, err)
		}
	}
	if !h.Chunked {
		return reason.OK
	}
	var c Chunked
	if _, _, err := decodePieces(&c, raw[n:], step); err != nil {
		return ends(t, err)
	}
	if !c.Done() {
		return incomplete
	}
	return reason.OK
}

// decodePieces decodes body in pieces of step bytes; it returns the data and the bytes taken.
func decodePieces(c *Chunked, body string, step int) (data []byte, taken int, err error) {
	for taken < len(body) && !c.Done() {
		piece := []byte(body[taken:min(taken+step, len(body))])
		for len(piece) > 0 && !c.Done() {
			d, n, err := c.Decode(piece)
			if err != nil {
				return data, taken + n, err
			}
			data = append(data, d...)
			piece, taken = piece[n:], taken+n
		}
	}
	return data, taken, nil
}

// readResponse reads what a backend sends in answer to GET before it closes.
func readResponse(t testing.TB, raw string, step int) reason.Reason {
	t.Helper()
	var h ResponseHead
	rest := raw
	for {
		n := 0
		for end := 0; n == 0; {
			if end == len(rest) {
				return reason.BackendReset
			}
			end = min(end+step, len(rest))
			var err error
			if n, err = h.Parse([]byte(rest[:end]), &Limits{MaxHead: corpus.MaxResponseHead}); err != nil {
				return ends(t, err)
			}
		}
		rest = rest[n:]
		if !h.Interim() {
			break
		}
		h.Reset()
	}
	if h.Status == 101 {
		return reason.UnaskedUpgrade
	}
	switch h.BodyKind(MethodGet) {
	case LengthBody:
		if int64(len(rest)) < h.ContentLength {
			return reason.BackendTruncated
		}
	case ChunkedBody:
		c := Chunked{Response: true}
		if _, _, err := decodePieces(&c, rest, step); err != nil {
			return ends(t, err)
		}
		if !c.Done() {
			return reason.BackendTruncated
		}
	}
	return reason.OK
}

// steps are the sizes of reads that every message is tried with.
var steps = []int{1 << 20, 1, 2, 3, 7}

// stretch makes steps longer for a long message, of which each step is copied whole.
func stretch(raw string, step int) int {
	if len(raw) > 2000 {
		return step * 101
	}
	return step
}

func TestCorpusRequests(t *testing.T) {
	var h RequestHead
	for _, list := range [][]corpus.Case{corpus.Requests, corpus.Sound} {
		for _, c := range list {
			for _, step := range steps {
				if got := readRequest(t, &h, c.Raw, stretch(c.Raw, step)); got != c.Want {
					t.Errorf("%s, in steps of %d: got %v, want %v", c.Name, step, got, c.Want)
				}
			}
		}
	}
}

func TestCorpusResponses(t *testing.T) {
	for _, list := range [][]corpus.Case{corpus.Responses, corpus.Poison} {
		for _, c := range list {
			for _, step := range steps {
				if got := readResponse(t, c.Raw, stretch(c.Raw, step)); got != c.Want {
					t.Errorf("%s, in steps of %d: got %v, want %v", c.Name, step, got, c.Want)
				}
			}
		}
	}
}

func TestMutationsEndTheSameHoweverTheyAreCut(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	seeds := append(append([]corpus.Case{}, corpus.Sound...), corpus.Requests...)
	var h RequestHead
	refused := 0
	for range 5000 {
		raw := corpus.Mutate(rng, seeds[rng.IntN(len(seeds))].Raw)
		want := readRequest(t, &h, raw, len(raw)+1)
		step := stretch(raw, 1+rng.IntN(9))
		if got := readRequest(t, &h, raw, step); got != want {
			t.Errorf("%q: %v whole, %v in steps of %d", raw, want, got, step)
		}
		if want != reason.OK && want != incomplete {
			refused++
		}
	}
	if refused < 2500 {
		t.Errorf("%d of 5000 mutations refused, want at least 2500", refused)
	}
}
