//go:build race

package proxy_test

// hostileScale divides the counts of mutations: the race detector makes each exchange
// several times as dear.
const hostileScale = 4
