package accept

import (
	"context"
	"fmt"
	"time"

	"tickgate/loadtest/httpload"
	"tickgate/loadtest/pace"
)

const (
	mixedFor   = 10 * time.Minute
	orderBound = 5 * time.Millisecond
	order      = "order"
	// mixedRoutes make orders critical: they wait for nobody.
	mixedRoutes = `  - {path: /orders, methods: [POST], upstream: be, priority: critical}
  - {path: /, upstream: be}
`
)

// mixOf is quotes, orders and cancels, 7:2:1.
func mixOf() []httpload.Request {
	body := []byte(`{"symbol":"TICK","side":"buy","quantity":100,"price":"101.25"}`)
	return []httpload.Request{
		{Name: "quote", Weight: 7, Path: "/quotes/TICK"},
		{Name: order, Weight: 2, Method: "POST", Path: "/orders", Header: []httpload.Field{{Name: "Content-Type", Value: "application/json"}}, Body: body},
		{Name: "cancel", Weight: 1, Method: "DELETE", Path: "/orders/1"},
	}
}

// mixed runs the rated load as a mix.
func mixed(ctx context.Context, b *bench) ([]Row, error) {
	rated, err := b.rate(ctx)
	if err != nil {
		return nil, err
	}
	s, err := b.staged(ctx, layout{routes: mixedRoutes})
	if err != nil {
		return nil, err
	}
	defer s.close()
	warm, span := b.Shortest/2, b.span(mixedFor)
	l, err := s.load(ctx, httpload.Options{Plan: pace.Constant(rated, warm+span), Warmup: warm, Mix: mixOf(), Seed: 1})
	if err != nil {
		return nil, err
	}
	r := Row{
		Demand: "p99 of orders among quotes, orders and cancels 7:2:1", Bound: fmt.Sprintf("at most %v, 0 errors", orderBound),
		Method: fmt.Sprintf("open loop, %.0f requests/s for %v; orders on a critical route; from the due time", rated, span),
	}
	b.judgeMixed(&r, l, rated)
	return []Row{r}, nil
}

func (b *bench) judgeMixed(r *Row, l loaded, rated float64) {
	k := l.ByName[order]
	r.Figure = fmt.Sprintf("orders p99 %.2f ms (p50 %.2f ms, %d of them); all p99 %.2f ms; %v", ms(k.Latency.P99), ms(k.Latency.P50), k.OK, ms(l.Latency.P99), l.Split)
	r.Values = map[string]float64{"orders_p99_ms": ms(k.Latency.P99), "orders": float64(k.OK), "p99_ms": ms(l.Latency.P99), "per_second": l.OKPerSecond, "errors": float64(l.Failed())}
	r.lossless(l.Result)
	if k.OK == 0 {
		r.fail("no order was answered")
	}
	busy := b.excuse(l.Split, l.Bottleneck)
	if p99 := time.Duration(k.Latency.P99 * 1e3); p99 > orderBound {
		r.miss(busy, "p99 of orders is %.2f ms", ms(k.Latency.P99))
	}
	r.reaches(l.Result, rated, busy)
}
