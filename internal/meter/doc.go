// Package meter holds the gateway's metrics and writes them in the Prometheus text
// format, on top of VictoriaMetrics/metrics. What every request touches is sharded, so
// that processors do not fight over cache lines; the rest are plain counters.
package meter
