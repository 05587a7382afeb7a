package proxy

import (
	"fmt"

	"tickgate/config"
)

// action answers a request that was routed and admitted. It sends the response
// itself, or sets the reason for which there is none (Exchange.fail).
type action interface {
	serve(x *Exchange)
	// kind is the configuration key that asks for this action, for the admin API.
	kind() string
}

// actionKinds is every action there is. A new one is a file with its type, and a
// row here.
var actionKinds = []struct {
	asked   func(r *config.Route) bool
	compile func(b *builder, r *config.Route, rt *route) (action, error)
}{
	{func(r *config.Route) bool { return r.Upstream != "" }, compileForward},
	{func(r *config.Route) bool { return r.StaticResponse != nil }, compileStatic},
	{func(r *config.Route) bool { return r.Redirect != nil }, compileRedirect},
}

func compileAction(b *builder, r *config.Route, rt *route) (action, error) {
	for _, k := range actionKinds {
		if k.asked(r) {
			return k.compile(b, r, rt)
		}
	}
	return nil, fmt.Errorf("route %q has no action", rt.name)
}
