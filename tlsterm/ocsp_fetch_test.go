package tlsterm

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"tickgate/internal/testcert"
)

// serveOCSP is a server whose requests go to h. It never waits for them when it is closed.
func serveOCSP(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	return s.URL
}

// askOnce asks with a time that no machine is too slow for.
func askOnce(t *testing.T, responder string, query []byte) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return askResponder(ctx, responder, query)
}

// sentQuery returns the request that a responder was sent.
func sentQuery(r *http.Request) ([]byte, error) {
	if r.Method == http.MethodPost {
		return io.ReadAll(r.Body)
	}
	escaped := r.URL.EscapedPath()
	text, err := url.PathUnescape(escaped[strings.LastIndex(escaped, "/")+1:])
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.DecodeString(text)
}

func TestAskResponder(t *testing.T) {
	// A proxy that the environment names is not asked.
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	o := newOffice(t)
	leaf := o.leaf().Leaf(t)
	long := o.Issue(t, testcert.Request{Alter: func(c *x509.Certificate) { c.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 159) }}).Leaf(t)
	long.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 1000) // longer than any certificate may have
	f := func(name, path string, leaf *x509.Certificate, refused []string, want ...string) {
		t.Helper()
		query, err := ocspQuery(leaf, o.issuer)
		if err != nil {
			t.Fatal(err)
		}
		var methods []string
		base := serveOCSP(t, func(w http.ResponseWriter, r *http.Request) {
			methods = append(methods, r.Method)
			got, err := sentQuery(r)
			if err != nil || !bytes.Equal(got, query) || !strings.HasPrefix(r.URL.Path, path) || r.Header.Get("Accept") != "application/ocsp-response" {
				t.Errorf("%s: %s %s, %v", name, r.Method, r.URL, err)
			}
			if r.Method == http.MethodPost && (r.URL.Path != path || r.Header.Get("Content-Type") != "application/ocsp-request") {
				t.Errorf("%s: POST to %s, %v", name, r.URL, r.Header)
			}
			if slices.Contains(refused, r.Method) {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			_, _ = w.Write([]byte("answer"))
		})
		got, err := askOnce(t, base+path, query)
		if !slices.Equal(methods, want) {
			t.Errorf("%s: %s, want %s", name, methods, want)
		}
		if len(refused) == 2 {
			wantResult(t, name, nil, err, OCSPHTTPStatus)
		} else if err != nil || string(got) != "answer" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	f("by GET", "/", leaf, nil, "GET")
	f("by GET below a path", "/ocsp/ca1", leaf, nil, "GET")
	f("by POST where GET is not known", "/ocsp", leaf, []string{"GET"}, "GET", "POST")
	f("by POST as it is long", "/", long, nil, "POST")
	f("neither", "/ocsp", leaf, []string{"GET", "POST"}, "GET", "POST")
}

func TestAskResponderFails(t *testing.T) {
	f := func(name string, h http.HandlerFunc, want OCSPResult) {
		t.Helper()
		var asked atomic.Int64
		base := serveOCSP(t, func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			h(w, r)
		})
		der, err := askOnce(t, base, []byte("query"))
		if err == nil {
			_, err = readOCSP(der, nil, nil, time.Now())
		}
		wantResult(t, name, nil, err, want)
		if asked.Load() != 1 {
			t.Errorf("%s: asked %d times", name, asked.Load())
		}
	}
	var elsewhere atomic.Int64
	other := serveOCSP(t, func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) })
	f("server error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, OCSPHTTPStatus)
	for _, code := range []int{301, 302, 307, 308} {
		f("redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other, code) }, OCSPHTTPStatus)
	}
	if elsewhere.Load() != 0 {
		t.Error("a redirect was followed")
	}
	f("endless", func(w http.ResponseWriter, _ *http.Request) {
		for err := error(nil); err == nil; {
			_, err = w.Write(make([]byte, 64<<10))
		}
	}, OCSPTooLarge)
	f("cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte("short"))
	}, OCSPUnreachable)
	f("reset", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, OCSPUnreachable)
	f("a large head", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 64<<10)) }, OCSPUnreachable)
	f("a page", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, OCSPMalformed)
	f("try later", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(ocsp.TryLaterErrorResponse) }, OCSPResponderError)

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	_, err = askOnce(t, "http://"+ln.Addr().String(), []byte("query"))
	wantResult(t, "refused", nil, err, OCSPUnreachable)
	if !errors.Is(err, syscall.ECONNREFUSED) || strings.Contains(err.Error(), base64.StdEncoding.EncodeToString([]byte("query"))) {
		t.Errorf("refused: %v", err)
	}
	_, err = askOnce(t, "http://bad host/", []byte("query"))
	wantResult(t, "no URL", nil, err, OCSPUnreachable)
}

// A responder that is silent, or dribbles, costs the timeout and no more.
func TestAskResponderTimesOut(t *testing.T) {
	f := func(name string, before func(w http.ResponseWriter)) {
		t.Helper()
		done := make(chan struct{})
		base := serveOCSP(t, func(w http.ResponseWriter, r *http.Request) {
			before(w)
			select {
			case <-r.Context().Done():
			case <-done:
			}
		})
		defer close(done)
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_, err := askResponder(ctx, base, []byte("query"))
		wantResult(t, name, nil, err, OCSPTimedOut)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f("silent", func(http.ResponseWriter) {})
	f("stops in the body", func(w http.ResponseWriter) {
		_, _ = w.Write([]byte("half"))
		w.(http.Flusher).Flush()
	})
}

func TestOCSPFile(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	f := func(name, path, want string) {
		t.Helper()
		got, err := readOCSPFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	f("DER", put("der", "0\x03bytes"), "0\x03bytes")
	f("PEM", put("pem", "a comment\n-----BEGIN X-----\nAAAA\n-----END X-----\n-----BEGIN OCSP RESPONSE-----\nYW5zd2Vy\n-----END OCSP RESPONSE-----\n"), "answer")
	f("empty", put("empty", ""), "")
	if got, err := readOCSPFile(put("large", strings.Repeat("x", 1<<20))); err != nil || len(got) > 2*maxOCSPAnswer {
		t.Errorf("large: %d bytes, %v", len(got), err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "none"), dir, pipe} {
		got, err := readOCSPFile(path)
		wantResult(t, path, nil, err, OCSPUnreadable)
		if got != nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q, %v", got, err)
		}
	}
}

func TestOCSPWait(t *testing.T) {
	o := OCSPOptions{RefreshMin: time.Minute, RefreshMax: 12 * time.Hour}
	f := func(left time.Duration, failures int, want time.Duration) {
		t.Helper()
		if got := ocspWait(&o, left, failures, 0); got != want {
			t.Errorf("%v left, %d failures: %v, want %v", left, failures, got, want)
		}
		most := ocspWait(&o, left, failures, 0.999)
		if most <= want || most > want+want/4 || left > 2*o.RefreshMin && most >= left {
			t.Errorf("%v left, %d failures: at most %v", left, failures, most)
		}
	}
	// Half of what is left, within the bounds.
	f(7*24*time.Hour, 0, 12*time.Hour)
	f(10*time.Hour, 0, 5*time.Hour)
	f(10*time.Minute, 0, 5*time.Minute)
	f(time.Minute, 0, time.Minute)
	f(1, 0, time.Minute)
	// Failures: doubled, more patiently while there is an answer, and never beyond half of that.
	for failures, want := range map[int]time.Duration{1: 1, 2: 2, 3: 4, 4: 8, 5: 16, 6: 16, 1000: 16} {
		f(7*24*time.Hour, failures, want*time.Minute)
		f(0, failures, min(want, 4)*time.Minute)
	}
	f(10*time.Minute, 5, 5*time.Minute)
	f(time.Minute, 5, time.Minute)
}
