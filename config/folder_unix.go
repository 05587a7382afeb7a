//go:build unix

package config

import "golang.org/x/sys/unix"

// writable tells why no files can be made in a folder, as far as its rights and its mount say; nil if they can be. Nothing is written.
func writable(dir string) error { return unix.Access(dir, unix.W_OK|unix.X_OK) }
