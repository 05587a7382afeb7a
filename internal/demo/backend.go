package demo

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/fasthttp/router"
	"github.com/valyala/fasthttp"

	_ "embed" // the page
)

// Bounds of what one request may ask of a demonstration backend.
const (
	maxEcho  = 1 << 20     // bytes of body that /echo sends back
	maxBytes = 16 << 30    // bytes that /bytes/{n} sends
	maxSlow  = time.Minute // delay of /slow
	maxDrain = 256 << 10   // unread request body taken after an answer, instead of closing
	pieceLen = 32 << 10    // one read or write of a streamed body
	jsonType = "application/json"
	textType = "text/plain; charset=utf-8"
)

//go:embed page.html
var page []byte

// httpHandler answers for the HTTP backend called name.
func (d *Demo) httpHandler(name string) fasthttp.RequestHandler {
	r := router.New()
	r.RedirectTrailingSlash, r.RedirectFixedPath = false, false
	r.HandleOPTIONS = false
	r.GET("/", servePage)
	r.GET("/health", serveHealth)
	r.GET("/quotes", d.serveQuotes)
	r.GET("/quotes/{symbol}", d.serveQuote)
	r.GET("/orders/{id}", serveOrder)
	r.POST("/orders", servePlacedOrder)
	r.ANY("/echo", serveEcho)
	r.ANY("/slow", d.serveSlow)
	r.ANY("/status/{code}", serveStatus)
	r.GET("/bytes/{n}", serveBytes)
	r.HEAD("/bytes/{n}", serveBytes)
	r.GET("/events", d.serveEvents)
	r.POST("/upload", serveUpload)
	r.PUT("/upload", serveUpload)
	return tagged(name, r.Handler)
}

// tagged marks every response with the backend that made it.
func tagged(name string, next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(rc *fasthttp.RequestCtx) {
		next(rc)
		rc.Response.Header.Set("X-Backend", name)
	}
}

// whole makes sure that a request's body has been read to its end before the next
// request is. fasthttp does not: with StreamRequestBody it would read the rest of
// an unread body as a request of its own. A long rest costs the connection.
func whole(next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(rc *fasthttp.RequestCtx) {
		next(rc)
		body := rc.RequestBodyStream()
		if body == nil {
			return
		}
		n, err := io.Copy(io.Discard, io.LimitReader(body, maxDrain+1))
		if err != nil || n > maxDrain {
			rc.SetConnectionClose()
		}
	}
}

func servePage(rc *fasthttp.RequestCtx) {
	rc.SetContentType("text/html; charset=utf-8")
	rc.Response.Header.Set("Cache-Control", "no-cache")
	rc.SetBody(page)
}

func serveHealth(rc *fasthttp.RequestCtx) {
	rc.SetContentType(textType)
	rc.SetBodyString("ok\n")
}

// serveQuotes lists the symbols.
func (d *Demo) serveQuotes(rc *fasthttp.RequestCtx) {
	answerJSON(rc, map[string]any{"symbols": d.market.symbols()})
}

// serveQuote answers with the last quote of a symbol.
func (d *Demo) serveQuote(rc *fasthttp.RequestCtx) {
	symbol := pathValue(rc, "symbol")
	quote, ok := d.market.quote(symbol)
	if !ok {
		refuse(rc, fasthttp.StatusNotFound, fmt.Sprintf("no symbol %q; GET /quotes lists them", symbol))
		return
	}
	answerJSON(rc, quote)
}

func serveOrder(rc *fasthttp.RequestCtx) {
	id, err := strconv.Atoi(pathValue(rc, "id"))
	if err != nil || id < 1 {
		refuse(rc, fasthttp.StatusNotFound, "an order's id is a number from 1")
		return
	}
	side := [2]string{"buy", "sell"}[id%2]
	answerJSON(rc, map[string]any{"id": id, "side": side, "symbol": listed[id%len(listed)].symbol, "quantity": id * 10, "state": "filled"})
}

// servePlacedOrder accepts any JSON object as an order.
func servePlacedOrder(rc *fasthttp.RequestCtx) {
	var order map[string]any
	body, err := readBody(rc, 64<<10)
	if err == nil {
		err = json.Unmarshal(body, &order)
	}
	if err != nil || order == nil { // null is JSON and no object
		refuse(rc, fasthttp.StatusBadRequest, "an order is a JSON object of at most 64 KiB")
		return
	}
	order["state"] = "accepted"
	rc.SetStatusCode(fasthttp.StatusCreated)
	answerJSON(rc, order)
}

// serveEcho answers with the request as it arrived here: request line, header
// fields in their order and case, and the body. The body is bounded and read whole
// first: an answer that starts before the request has ended would need a gateway
// that sends and receives at once.
func serveEcho(rc *fasthttp.RequestCtx) {
	body, err := readBody(rc, maxEcho)
	if err != nil {
		refuse(rc, fasthttp.StatusRequestEntityTooLarge, "/echo takes at most 1 MiB; /upload takes any size")
		return
	}
	rc.SetContentType(textType)
	out := rc.Response.BodyWriter()
	fmt.Fprintf(out, "%s %s %s\r\n%s", rc.Method(), rc.RequestURI(), rc.Request.Header.Protocol(), rc.Request.Header.RawHeaders())
	_, _ = out.Write(body) // into memory: cannot fail
}

// serveSlow answers after ?ms= milliseconds, or when the demonstration stops.
func (d *Demo) serveSlow(rc *fasthttp.RequestCtx) {
	ms, err := strconv.Atoi(string(rc.QueryArgs().Peek("ms")))
	delay := time.Duration(ms) * time.Millisecond
	if err != nil || delay < 0 || delay > maxSlow {
		refuse(rc, fasthttp.StatusBadRequest, "?ms= is a number of milliseconds up to 60000")
		return
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-d.done:
	}
	answerJSON(rc, map[string]any{"slept_ms": ms})
}

// serveStatus answers with the status of its path. 1xx are not final and 204 and
// 304 have no body.
func serveStatus(rc *fasthttp.RequestCtx) {
	code, err := strconv.Atoi(pathValue(rc, "code"))
	if err != nil || code < 200 || code > 599 {
		refuse(rc, fasthttp.StatusBadRequest, "the status is a number from 200 to 599")
		return
	}
	rc.SetStatusCode(code)
	if code == fasthttp.StatusNoContent || code == fasthttp.StatusNotModified {
		return
	}
	rc.SetContentType(textType)
	fmt.Fprintf(rc, "%d %s\n", code, fasthttp.StatusMessage(code))
}

// serveBytes streams n bytes of text, with Content-Length or, with ?chunked=1,
// in chunks.
func serveBytes(rc *fasthttp.RequestCtx) {
	n, err := strconv.ParseInt(pathValue(rc, "n"), 10, 64)
	if err != nil || n < 0 || n > maxBytes {
		refuse(rc, fasthttp.StatusBadRequest, "the size is a number of bytes up to 16 GiB")
		return
	}
	rc.SetContentType(textType)
	size := int(n)
	if rc.QueryArgs().GetBool("chunked") {
		size = -1
	}
	rc.SetBodyStream(io.LimitReader(&pattern{}, n), size)
}

// pattern is an endless text of numbered 64-byte lines, so that a lost or repeated
// piece shows.
type pattern struct {
	next int64             // number of the line after this one
	line [patternLine]byte // "000…042\n"
	left int               // bytes of the line not yet given
}

const patternLine = 64

// Read fills p.
func (t *pattern) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		if t.left == 0 {
			t.advance()
		}
		m := copy(p[n:], t.line[patternLine-t.left:])
		n += m
		t.left -= m
	}
	return n, nil
}

// advance writes the next line.
func (t *pattern) advance() {
	number := t.next
	for i := patternLine - 2; i >= 0; i-- {
		t.line[i] = byte('0' + number%10)
		number /= 10
	}
	t.line[patternLine-1] = '\n'
	t.left = patternLine
	t.next++
}

// serveEvents sends the quote of ?symbol= (BTC-USD) as a server-sent event twice a
// second, until the client goes or the demonstration stops.
func (d *Demo) serveEvents(rc *fasthttp.RequestCtx) {
	symbol := string(rc.QueryArgs().Peek("symbol"))
	if symbol == "" {
		symbol = listed[0].symbol
	}
	if _, ok := d.market.quote(symbol); !ok {
		refuse(rc, fasthttp.StatusNotFound, fmt.Sprintf("no symbol %q; GET /quotes lists them", symbol))
		return
	}
	rc.SetContentType("text/event-stream")
	rc.Response.Header.Set("Cache-Control", "no-cache")
	// The writer runs after the handler has returned: it must not touch rc.
	rc.SetBodyStreamWriter(func(w *bufio.Writer) { d.writeEvents(w, symbol) })
}

// writeEvents writes events until w fails.
func (d *Demo) writeEvents(w *bufio.Writer, symbol string) {
	ticker := time.NewTicker(d.events)
	defer ticker.Stop()
	for id := 1; ; id++ {
		quote, _ := d.market.quote(symbol)
		fmt.Fprintf(w, "id: %d\nevent: quote\ndata: %s\n\n", id, mustJSON(quote))
		if w.Flush() != nil {
			return
		}
		select {
		case <-ticker.C:
		case <-d.done:
			return
		}
	}
}

// serveUpload counts the bytes of a body of any size, in bounded memory.
func serveUpload(rc *fasthttp.RequestCtx) {
	var n int64
	began := time.Now()
	if body := rc.RequestBodyStream(); body != nil {
		var err error
		if n, err = io.CopyBuffer(io.Discard, onlyReader{body}, make([]byte, pieceLen)); err != nil {
			rc.SetConnectionClose()
			refuse(rc, fasthttp.StatusBadRequest, fmt.Sprintf("body ended after %d bytes: %v", n, err))
			return
		}
	} else {
		n = int64(len(rc.PostBody()))
	}
	answerJSON(rc, map[string]any{"bytes": n, "seconds": time.Since(began).Seconds()})
}

// onlyReader hides every method but Read.
type onlyReader struct{ io.Reader }

var errTooLong = errors.New("body too long")

// readBody reads a whole request body of at most limit bytes.
func readBody(rc *fasthttp.RequestCtx, limit int) ([]byte, error) {
	stream := rc.RequestBodyStream()
	if stream == nil {
		return rc.PostBody(), nil
	}
	body, err := io.ReadAll(io.LimitReader(stream, int64(limit)+1))
	if err == nil && len(body) > limit {
		err = errTooLong
	}
	return body, err
}

// pathValue returns a parameter of the matched path.
func pathValue(rc *fasthttp.RequestCtx, name string) string {
	value, _ := rc.UserValue(name).(string)
	return value
}

// answerJSON answers with v and a final newline.
func answerJSON(rc *fasthttp.RequestCtx, v any) {
	rc.SetContentType(jsonType)
	rc.SetBody(append(mustJSON(v), '\n'))
}

// refuse answers with a status and a reason in JSON.
func refuse(rc *fasthttp.RequestCtx, status int, why string) {
	rc.SetStatusCode(status)
	answerJSON(rc, map[string]string{"error": why})
}

// mustJSON encodes values made here, which always encode.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return b
}
