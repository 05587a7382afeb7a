package proxy

import (
	"net"

	"tickgate/health"
	"tickgate/internal/sock"
	"tickgate/proxy/upstream"
)

// registryOptions wires the backends' connections to the sweep and their health to
// the checker.
func (g *Gateway) registryOptions(checker upstream.Checker) upstream.Options {
	return upstream.Options{
		Wrap: func(raw net.Conn) net.Conn {
			g.meter.FDs.Backend.Add(1)
			c := sock.New(raw, g.sweeper)
			c.OnClose(g.backendClosed)
			return c
		},
		Checker: checker,
		Log:     g.log.Zerolog(),
	}
}

func (g *Gateway) backendClosed() { g.meter.FDs.Backend.Add(-1) }

// Prober adapts a health.Checker to what upstream wants.
type Prober struct{ *health.Checker }

// Watch implements upstream.Checker.
func (p Prober) Watch(t upstream.HealthTarget, o *health.Options, onChange func(up bool, cause string)) (stop func()) {
	target := health.Target{Network: t.Network, Address: t.Address, Host: t.Host, TLS: t.TLS}
	return p.Checker.Watch(target, o, func(tr health.Transition) { onChange(tr.Up, tr.Reason) })
}
