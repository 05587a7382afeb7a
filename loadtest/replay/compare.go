package replay

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"tickgate/loadtest/httpload"
)

// Change says how often requests of one logged status got another one, or the same.
type Change struct {
	Logged int   `json:"logged"` // 0 is none
	Got    int   `json:"got"`    // 0 is no response
	Count  int64 `json:"count"`
}

// Compare lists what the statuses of a log have become, in the order of the logged status
// and then of the count.
func Compare(r *httpload.Result) []Change {
	var changes []Change
	for _, name := range slices.Sorted(maps.Keys(r.ByName)) {
		kind := r.ByName[name]
		logged, ok := statusOf(name)
		if !ok {
			continue
		}
		unanswered := kind.Count
		first := len(changes)
		for got, n := range kind.Statuses {
			changes = append(changes, Change{logged, got, n})
			unanswered -= n
		}
		if unanswered > 0 {
			changes = append(changes, Change{logged, 0, unanswered})
		}
		slices.SortFunc(changes[first:], func(a, b Change) int {
			if a.Count != b.Count {
				return int(b.Count - a.Count)
			}
			return a.Got - b.Got
		})
	}
	return changes
}

// statusOf is the reverse of NameOf.
func statusOf(name string) (status int, ok bool) {
	if name == NameOf(0) {
		return 0, true
	}
	_, err := fmt.Sscanf(name, "logged %d", &status)
	return status, err == nil
}

// WriteChanges writes a comparison for people.
func WriteChanges(w io.Writer, changes []Change) error {
	var b strings.Builder
	word := func(status int) string {
		if status == 0 {
			return "none"
		}
		return fmt.Sprint(status)
	}
	same, all := int64(0), int64(0)
	fmt.Fprintf(&b, "\n%8s %8s %10s\n", "logged", "got", "requests")
	for _, c := range changes {
		mark := "  <- differs"
		if c.Logged == c.Got {
			mark = ""
			same += c.Count
		}
		all += c.Count
		fmt.Fprintf(&b, "%8s %8s %10d%s\n", word(c.Logged), word(c.Got), c.Count, mark)
	}
	fmt.Fprintf(&b, "%d of %d requests got the status of the log\n", same, all)
	_, err := io.WriteString(w, b.String())
	return err
}
