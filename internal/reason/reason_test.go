package reason

import (
	"errors"
	"fmt"
	"regexp"
	"testing"
)

// TestTable finds a reason without a row, and words that are not fit for labels.
func TestTable(t *testing.T) {
	word := regexp.MustCompile(`^[a-z][a-z_]*[a-z]$`)
	seen := map[string]Reason{}
	for _, r := range All() {
		if !word.MatchString(r.String()) {
			t.Errorf("reason %d has the word %q", r, r)
		}
		if other, ok := seen[r.String()]; ok {
			t.Errorf("reasons %d and %d share the word %q", r, other, r)
		}
		seen[r.String()] = r
		if s := r.Status(); s != 0 && (s < 400 || s > 599) {
			t.Errorf("%v has status %d", r, s)
		}
	}
}

func TestIsAnError(t *testing.T) {
	err := fmt.Errorf("parse: %w", BadChunk)
	if !errors.Is(err, BadChunk) || errors.Is(err, BadHost) {
		t.Error("errors.Is does not tell reasons apart")
	}
	if Reason(255).String() != "unknown" || Reason(255).Status() != 500 {
		t.Error("an unknown reason must be visible as such")
	}
}
