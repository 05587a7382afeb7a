package replay

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"tickgate/loadtest/sheet"
)

// Survey is what a replay would send.
type Survey struct {
	Requests int64   `json:"requests"` // copies of bursts included
	Seconds  float64 `json:"seconds"`  // until the last is due
	// Rates are requests in each Step seconds of the replay; Peak is the most in one second.
	Step    int64            `json:"step_seconds"`
	Rates   []int64          `json:"rates"`
	Peak    int64            `json:"peak"`
	Methods map[string]int64 `json:"methods"`
	Hosts   map[string]int64 `json:"hosts"`
	Bodies  int64            `json:"body_bytes"`
}

const (
	maxRates = 100 // steps of time that are told apart
	maxHosts = 100
	others   = "(others)"
)

// Take runs through a source without sending anything. host is what requests that name none
// are sent with.
func Take(s *Source, host string) *Survey {
	v := &Survey{Step: 1, Methods: map[string]int64{}, Hosts: map[string]int64{}}
	var second, inSecond int64
	for {
		due, r, ok := s.Next()
		if !ok {
			return v
		}
		if now := int64(due / time.Second); now != second {
			second, inSecond = now, 0
		}
		inSecond++
		v.Peak = max(v.Peak, inSecond)
		v.Requests++
		v.Seconds = due.Seconds()
		v.Bodies += int64(len(r.Body))
		v.count(second)
		add(v.Methods, r.Method)
		name := host
		if len(r.Header) > 0 && r.Header[0].Name == "Host" {
			name = r.Header[0].Value
		}
		add(v.Hosts, name)
	}
}

// add counts a key, the first maxHosts by name.
func add(counts map[string]int64, key string) {
	if _, known := counts[key]; !known && len(counts) >= maxHosts {
		key = others
	}
	counts[key]++
}

// count adds a request to its step of time; steps grow with the replay, so that they are few.
func (v *Survey) count(second int64) {
	for second/v.Step >= maxRates {
		for i := range v.Rates {
			half := v.Rates[i]
			v.Rates[i] = 0
			v.Rates[i/2] += half
		}
		v.Rates = v.Rates[:(len(v.Rates)+1)/2]
		v.Step *= 2
	}
	for int64(len(v.Rates)) <= second/v.Step {
		v.Rates = append(v.Rates, 0)
	}
	v.Rates[second/v.Step]++
}

// WriteTo writes the survey for people.
func (v *Survey) WriteTo(w io.Writer) (int64, error) {
	s := sheet.New(11)
	mean := float64(v.Requests)
	if v.Seconds > 1 {
		mean /= v.Seconds
	}
	s.Line("would send", "%d requests in %.1f s, %.1f/s on average, at most %d in a second, %d bytes of bodies", v.Requests, v.Seconds, mean, v.Peak, v.Bodies)
	s.Line("methods", "%s", listed(v.Methods))
	s.Line("hosts", "%s", listed(v.Hosts))
	widest := int64(1)
	if len(v.Rates) > 0 {
		widest = slices.Max(v.Rates)
	}
	for i, n := range v.Rates {
		bar := strings.Repeat("#", int(n*40/widest))
		fmt.Fprintf(s, "%8s  %10.1f/s  %s\n", time.Duration(int64(i)*v.Step)*time.Second, float64(n)/float64(v.Step), bar)
	}
	return s.WriteTo(w)
}

// listed writes counts, the most first.
func listed[K cmp.Ordered](counts map[K]int64) string {
	keys := slices.Sorted(maps.Keys(counts))
	slices.SortStableFunc(keys, func(a, b K) int { return cmp.Compare(counts[b], counts[a]) })
	var b strings.Builder
	for i, k := range keys {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%v %d", k, counts[k])
	}
	return b.String()
}

// WriteTo writes the counts for people.
func (c *Counts) WriteTo(w io.Writer) (int64, error) {
	s := sheet.New(11)
	s.Line("log", "%d lines, %d requests, %d copies in bursts", c.Lines, c.Requests, c.Copies)
	line := func(name string, counts map[string]int64) {
		if len(counts) > 0 {
			s.Line(name, "%s", listed(counts))
		}
	}
	line("flawed", c.Flawed)
	for _, f := range c.Examples {
		s.Line("", "%s:%d: %s: %q", f.File, f.Line, f.Reason, f.Text)
	}
	line("skipped", c.Skipped)
	more := map[string]int64{"late": c.Late, "crowded seconds": c.Crowded, "cut bodies": c.CutBodies, "dropped fields": c.DroppedFields}
	maps.DeleteFunc(more, func(_ string, n int64) bool { return n == 0 })
	line("also", more)
	return s.WriteTo(w)
}
