//go:build !linux

package pace

import (
	"errors"
	"time"
)

// Alarm needs Linux.
type Alarm struct{}

// NewAlarm fails.
func NewAlarm() (*Alarm, error) { return nil, errors.ErrUnsupported }

// FD, Set and Close are never called.
func (*Alarm) FD() int           { return -1 }
func (*Alarm) Set(time.Duration) {}
func (*Alarm) Close()            {}
