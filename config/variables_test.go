package config_test

import (
	"slices"
	"testing"

	"tickgate/config"
	"tickgate/internal/accesslog"
)

// TestLogVariables compares the variables that a configuration may name with those
// that the access log can write.
func TestLogVariables(t *testing.T) {
	known := slices.Concat(config.KnownVariables, config.KnownLogVariables)
	slices.Sort(known)
	if written := accesslog.Variables(); !slices.Equal(known, written) {
		t.Errorf("config knows\n%q\nthe access log writes\n%q", known, written)
	}
}
