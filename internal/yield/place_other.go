//go:build !linux

package yield

import "time"

type place struct{}

func newPlace() *place { return nil }

func (*place) wait(time.Duration) {}

func (*place) close() {}
