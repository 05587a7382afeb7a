package health

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Statuses is a set of HTTP statuses, 100 to 599.
type Statuses [600/64 + 1]uint64

// Has reports whether the set holds status.
func (s *Statuses) Has(status int) bool {
	return status >= 0 && status < len(s)*64 && s[status/64]&(1<<(status%64)) != 0
}

// ParseStatuses reads single statuses and ranges separated by commas, such as
// "200-299,304". Blanks around them are ignored.
func ParseStatuses(text string) (Statuses, error) {
	var set Statuses
	var errs []error
	for part := range strings.SplitSeq(text, ",") {
		first, last, err := statusRange(strings.TrimSpace(part))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for st := first; st <= last; st++ {
			set[st/64] |= 1 << (st % 64)
		}
	}
	return set, errors.Join(errs...)
}

func statusRange(part string) (first, last int, err error) {
	from, to, isRange := strings.Cut(part, "-")
	if !isRange {
		to = from
	}
	first, err1 := status(from)
	last, err2 := status(to)
	if err1 != nil || err2 != nil || first > last {
		return 0, 0, fmt.Errorf("not a status or a range of them: %q (want 100 to 599, such as 200-299,304)", part)
	}
	return first, last, nil
}

func status(text string) (int, error) {
	text = strings.TrimSpace(text)
	n, err := strconv.Atoi(text)
	// The length refuses "+200" and "0200".
	if err != nil || len(text) != 3 || n < 100 || n > 599 {
		return 0, strconv.ErrSyntax
	}
	return n, nil
}

// Validate checks what the schema's bounds cannot, and returns all that is wrong. What only
// an HTTP probe looks at is not judged for another type.
func (o *Options) Validate() error {
	_, err := compile(o)
	return err
}

// InitiallyUp reports whether a backend gets traffic before its first result.
func (o *Options) InitiallyUp() bool { return o.Initial != "down" }

// matcher is what a probe wants of an answer.
type matcher struct {
	statuses Statuses
	contains string
	regex    *regexp.Regexp
}

func (m *matcher) wantsBody() bool { return m.contains != "" || m.regex != nil }

func compile(o *Options) (*matcher, error) {
	if o.Type == "tcp" {
		return &matcher{}, nil
	}
	var errs []error
	m := &matcher{contains: o.BodyContains}
	text := o.Status
	if text == "" {
		text = "200-399"
	}
	var err error
	if m.statuses, err = ParseStatuses(text); err != nil {
		errs = append(errs, fmt.Errorf("status: %w", err))
	}
	if o.BodyRegex != "" {
		if m.regex, err = regexp.Compile(o.BodyRegex); err != nil {
			errs = append(errs, fmt.Errorf("body_regex: %w", err))
		}
	}
	if o.Method == "HEAD" && m.wantsBody() {
		errs = append(errs, errors.New("method: HEAD has no body for body_contains or body_regex to match"))
	}
	if err := checkPath(o.Path); err != nil {
		errs = append(errs, err)
	}
	if strings.ContainsFunc(o.Host, notVisible) {
		errs = append(errs, fmt.Errorf("host: %q holds a blank or a control character", o.Host))
	}
	return m, errors.Join(errs...)
}

// checkPath keeps a path from breaking out of the request line.
func checkPath(path string) error {
	if path == "" {
		return nil
	}
	if path[0] != '/' && path != "*" {
		return fmt.Errorf("path: %q does not begin with /", path)
	}
	if strings.ContainsFunc(path, notVisible) {
		return fmt.Errorf("path: %q holds a blank or a control character (write it as %%20)", path)
	}
	return nil
}

func notVisible(r rune) bool { return r <= ' ' || r == 0x7f }

// body reports whether the first part of a body matches all that is asked for.
func (m *matcher) body(b []byte) bool {
	if !bytes.Contains(b, []byte(m.contains)) {
		return false
	}
	return m.regex == nil || m.regex.Match(b)
}
