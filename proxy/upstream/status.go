package upstream

import "time"

// Status is what the admin API shows of an upstream.
type Status struct {
	Name     string          `json:"name"`
	Balance  string          `json:"balance"`
	Backends []BackendStatus `json:"backends"`
	Names    []NameStatus    `json:"names,omitempty"`
	// TLS is nil unless the upstream has files of certificates or keys.
	TLS *TLSStatus `json:"tls,omitempty"`
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

// TLSStatus is what came of the TLS files of an upstream.
type TLSStatus struct {
	// Subject and NotAfter are those of the client certificate in use, empty if there is none.
	Subject  string    `json:"subject,omitempty"`
	NotAfter time.Time `json:"not_after,omitzero"`
	// Error is why what the files hold now is not in use; empty if it is.
	Error string `json:"error,omitempty"`
}

// Status returns the present state.
func (s *Set) Status() Status {
	st := Status{Name: s.name, Balance: s.cfg.Balance, Backends: []BackendStatus{}}
	st.RetriesAllowed, st.RetriesDenied = s.budget.Counts()
	if s.creds != nil {
		st.TLS = s.creds.status()
	}
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
