//go:build !unix

package main

import "tickgate/internal/errlog"

func raiseFileLimit(*errlog.Logger) {}
