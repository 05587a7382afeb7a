//go:build !race

package proxy_test

const hostileScale = 1
