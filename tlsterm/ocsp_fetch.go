package tlsterm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// ocspTransport carries requests to responders. Requests to one are hours apart, so that connections are not kept; a proxy that the
// environment names is for other purposes; and the resolver is Go's, whose lookups end with the request.
var ocspTransport = &http.Transport{
	Proxy:                  nil,
	DialContext:            (&net.Dialer{Resolver: &net.Resolver{PreferGo: true}}).DialContext,
	DisableKeepAlives:      true,
	DisableCompression:     true,
	MaxResponseHeaderBytes: 16 << 10,
}

// ocspClient follows no redirect: an answer is signed, but where a responder sends us is not.
var ocspClient = &http.Client{
	Transport:     ocspTransport,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// maxOCSPGet is the length up to which a request goes into a URL, where it can be cached on the way (RFC 6960 appendix A.1, RFC 5019
// section 5: below 255 bytes once it is encoded). Requests here have some 75 bytes, so that only a very long serial number does not.
const maxOCSPGet = 255

// askResponder sends a request and returns what comes back, not verified: by GET, and by POST if it is too long for that, or if the responder
// does not know GET. The error is an OCSPError.
func askResponder(ctx context.Context, responder string, query []byte) ([]byte, error) {
	encoded := url.QueryEscape(base64.StdEncoding.EncodeToString(query))
	if len(encoded) < maxOCSPGet {
		der, err := callResponder(ctx, responder, http.MethodGet, strings.TrimSuffix(responder, "/")+"/"+encoded, nil)
		if !errors.Is(err, errNoGet) {
			return der, err
		}
	}
	return callResponder(ctx, responder, http.MethodPost, responder, query)
}

// errNoGet is in the error for a status that responders answer with to a request that they do not understand.
var errNoGet = errors.New("(want 200)")

func callResponder(ctx context.Context, responder, method, target string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, failedCall(responder, err)
	}
	req.Header.Set("Accept", "application/ocsp-response")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/ocsp-request")
	}
	resp, err := ocspClient.Do(req)
	if err != nil {
		return nil, failedCall(responder, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if code := resp.StatusCode; code != http.StatusOK {
		if code/100 == 4 || code == http.StatusNotImplemented {
			return nil, ocspErrorf(OCSPHTTPStatus, "ask OCSP responder %q by %s: status %d %w", responder, method, code, errNoGet)
		}
		return nil, ocspErrorf(OCSPHTTPStatus, "ask OCSP responder %q by %s: status %d (want 200)", responder, method, code)
	}
	der, err := io.ReadAll(io.LimitReader(resp.Body, maxOCSPAnswer+1))
	if err != nil {
		return nil, failedCall(responder, err)
	}
	return der, nil
}

// failedCall sorts the error of a call. That of the client quotes the whole request, which would fill the log.
func failedCall(responder string, err error) error {
	result := OCSPUnreachable
	if isTimeout(err) {
		result = OCSPTimedOut
	}
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	return ocspErrorf(result, "ask OCSP responder %q: %w", responder, err)
}

// readOCSPFile returns the answer that a file holds, in DER or PEM, not verified. The error is an OCSPError.
func readOCSPFile(name string) ([]byte, error) {
	data, err := readSmallFile(name)
	if err != nil {
		return nil, ocspErrorf(OCSPUnreadable, "read OCSP answer: %w", err)
	}
	return ocspText(data), nil
}

// readSmallFile reads a plain file up to what an answer in PEM may take.
func readSmallFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a plain file", name)
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return io.ReadAll(io.LimitReader(file, 2*maxOCSPAnswer))
}

// Waits after failures double up to these multiples of ocsp.refresh_min: the first while there is an answer to staple, the second while there is none.
const (
	maxOCSPBackoff  = 16
	bareOCSPBackoff = 4
)

// ocspSpread is the part of a wait, one over this, that is added to it at random, so that a fleet does not ask all at once.
const ocspSpread = 4

// ocspWait is the time until a certificate is looked at again. left is what is left of the validity of its answer, 0 without one;
// failures is how many looks in a row have failed; spread, in [0, 1), is the random part.
func ocspWait(o *OCSPOptions, left time.Duration, failures int, spread float64) time.Duration {
	wait := min(max(left/2, o.RefreshMin), o.RefreshMax)
	switch {
	case failures > 0 && left > 0:
		wait = min(wait, backedOff(o.RefreshMin, failures, maxOCSPBackoff*o.RefreshMin))
	case failures > 0:
		wait = backedOff(o.RefreshMin, failures, bareOCSPBackoff*o.RefreshMin)
	}
	return wait + time.Duration(spread*float64(wait)/ocspSpread)
}

// readIssuers reads the certificates of ca_file, and sums up what is in it.
func readIssuers(name string) (issuers []*x509.Certificate, sum [sha256.Size]byte, err error) {
	data, err := readFile(name)
	if err != nil {
		return nil, sum, fmt.Errorf("read issuer certificates: %w", err)
	}
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if !isCert(block.Type) {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, sum, fmt.Errorf("read issuer certificates %q: %w", name, err)
		}
		issuers = append(issuers, c)
	}
	if len(issuers) == 0 {
		return nil, sum, fmt.Errorf("read issuer certificates %q: no certificate in it", name)
	}
	return issuers, sha256.Sum256(data), nil
}
