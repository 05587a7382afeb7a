//go:build !linux

package tlsattack

import "context"

// flood needs calls that not every system has.
func (r *run) flood(context.Context) error { return ErrUnsupported }
