package upstream

import (
	"crypto/tls"
	"time"
)

// Status is what the admin API shows of an upstream.
type Status struct {
	Name     string          `json:"name"`
	Balance  string          `json:"balance"`
	Backends []BackendStatus `json:"backends"`
	Names    []NameStatus    `json:"names,omitempty"`
	// RetriesAllowed and RetriesDenied count the retry budget's decisions.
	RetriesAllowed uint64 `json:"retries_allowed"`
	RetriesDenied  uint64 `json:"retries_denied"`
}

// BackendStatus is one backend.
type BackendStatus struct {
	Address string `json:"address"`
	// Server is the configured address that Address comes from.
	Server      string  `json:"server"`
	Weight      int     `json:"weight"`
	Up          bool    `json:"up"`
	Drained     bool    `json:"drained"`
	Backup      bool    `json:"backup"`
	InFlight    int64   `json:"in_flight"`
	MaxInFlight int64   `json:"max_in_flight"`
	EWMAMillis  float64 `json:"ewma_ms"`
	// Pools has an entry for each route tag that had a request.
	Pools []PoolStats `json:"pools"`
	// LastHealthChange is nil if the backend's health never changed.
	LastHealthChange *HealthChange `json:"last_health_change,omitempty"`
}

// NameStatus is a server whose address is looked up.
type NameStatus struct {
	Server    string `json:"server"`
	Addresses int    `json:"addresses"`
	// LastSuccess is zero if the name never resolved; Error is empty if the last lookup succeeded.
	LastSuccess time.Time `json:"last_success,omitzero"`
	Error       string    `json:"error,omitempty"`
}

// Status returns the present state.
func (s *Set) Status() Status {
	st := Status{Name: s.name, Balance: s.cfg.Balance, Backends: []BackendStatus{}}
	st.RetriesAllowed, st.RetriesDenied = s.budget.Counts()
	now := s.fam.reg.since()
	for _, l := range s.list.Load().all {
		st.Backends = append(st.Backends, l.status(now))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sv := range s.servers {
		if sv.sub != nil {
			n := sv.sub.status()
			n.Server, n.Addresses = sv.cfg.Address, len(sv.targets)
			st.Names = append(st.Names, n)
		}
	}
	return st
}

func (l *listed) status(now time.Duration) BackendStatus {
	b := l.b
	st := BackendStatus{
		Address: b.address, Server: b.key.server, Weight: l.weight, Up: b.Up(), Drained: l.drained, Backup: l.backup,
		InFlight: b.InFlight(), MaxInFlight: l.maxInFlight, EWMAMillis: b.ewma.value(now) * 1e3, Pools: []PoolStats{},
	}
	for _, p := range b.allPools() {
		st.Pools = append(st.Pools, p.Stats())
	}
	b.mu.Lock()
	if !b.change.At.IsZero() {
		change := b.change
		st.LastHealthChange = &change
	}
	b.mu.Unlock()
	return st
}

// clientTLSFor returns the TLS configuration of a server's backends. Each has its own session
// cache, as tickets of one backend mean nothing to another.
func (s *Set) clientTLSFor(server string) *tls.Config {
	c := s.tls.Clone()
	if n := s.cfg.TLS.SessionCache; n > 0 {
		c.ClientSessionCache = tls.NewLRUClientSessionCache(n)
	}
	c.ServerName = s.cfg.TLS.ServerName
	if c.ServerName == "" {
		c.ServerName = serverName(parseOrigin(server, s.print.res.Family))
	}
	return c
}
