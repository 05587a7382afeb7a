package proxy

import (
	"fmt"
	"io"
	"strconv"
	"sync"

	"github.com/VictoriaMetrics/metrics"

	"tickgate/internal/ticketstore"
	"tickgate/tlsterm"
)

// ticketKeys are the session ticket keys of one listener, while they follow their source.
type ticketKeys struct {
	listen string
	*tlsterm.Tickets
}

// openTickets gives ticket keys that are new with this plan what they need.
func (p *listenerPlan) openTickets(store, prev *tlsterm.Store) error {
	if store == nil || prev != nil && prev.Tickets() == store.Tickets() {
		return nil
	}
	keys := store.Tickets()
	if o := keys.Options(); o.Source == "redis" {
		source, err := ticketstore.Open(o.RedisURL, o.RedisKey, o.RedisTimeout)
		if err != nil {
			return err
		}
		keys.SetSource(source)
	}
	p.keys = append(p.keys, keys)
	return nil
}

// primeTickets has new ticket keys look at their source, all at once, before the first connection is accepted.
func (p *listenerPlan) primeTickets() {
	var wg sync.WaitGroup
	for _, k := range p.keys {
		wg.Go(k.Prime)
	}
	wg.Wait()
}

// followTicketsLocked starts the ticket keys of the listeners in use and ends those that no listener has any more.
func (g *Gateway) followTicketsLocked() {
	next := []ticketKeys{}
	used := map[*tlsterm.Tickets]bool{}
	for _, name := range sortedKeys(g.listeners) {
		store := g.listeners[name].store
		if store == nil {
			continue
		}
		k := ticketKeys{name, store.Tickets()}
		next, used[k.Tickets] = append(next, k), true
		k.Start(func(r tlsterm.TicketReport) { g.reportTickets(name, r) })
	}
	for _, k := range *g.tickets.Swap(&next) {
		if !used[k.Tickets] {
			k.Close()
		}
	}
}

// reportTickets logs that a source of ticket keys fails, or has recovered.
func (g *Gateway) reportTickets(listen string, r tlsterm.TicketReport) {
	if r.Err == nil {
		g.log.Info().Str("listen", listen).Str("source", r.Source).Msg("TLS ticket keys are up to date again")
		return
	}
	if e := g.log.Event(warnLevel, "ticket_keys"); e != nil {
		e.Str("listen", listen).Str("source", r.Source).Err(r.Err).Msg("TLS ticket keys cannot be read, those so far stay in use")
	}
}

func (g *Gateway) writeTicketMetrics(w io.Writer) {
	for _, k := range *g.tickets.Load() {
		st := k.Stats()
		listener := "listener=" + strconv.Quote(k.listen)
		source := fmt.Sprintf("{%s,source=%q}", listener, st.Source)
		for i, n := range st.Results {
			metrics.WriteCounterUint64(w, fmt.Sprintf("tickgate_tls_tickets_presented_total{%s,result=%q}", listener, tlsterm.TicketResult(i)), n)
		}
		metrics.WriteCounterUint64(w, "tickgate_tls_tickets_issued_total{"+listener+"}", st.Issued)
		metrics.WriteGaugeUint64(w, "tickgate_tls_ticket_keys{"+listener+"}", uint64(st.Keys))
		if st.Keys > 0 {
			metrics.WriteGaugeFloat64(w, "tickgate_tls_ticket_key_age_seconds{"+listener+"}", st.KeyAge.Seconds())
		}
		metrics.WriteCounterUint64(w, "tickgate_tls_ticket_key_rotations_total{"+listener+"}", st.Rotations)
		metrics.WriteCounterUint64(w, "tickgate_tls_ticket_source_errors_total"+source, st.Errors)
		metrics.WriteGaugeUint64(w, "tickgate_tls_ticket_source_up"+source, one(st.Up))
		metrics.WriteGaugeUint64(w, "tickgate_tls_ticket_fallback"+source, one(st.Fallback))
	}
}

func one(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
