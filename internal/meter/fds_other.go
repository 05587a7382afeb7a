//go:build !unix

package meter

import "errors"

// maxFDs knows no limit here.
func maxFDs() (uint64, error) { return 0, errors.ErrUnsupported }
