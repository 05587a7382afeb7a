package tlsterm

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"tickgate/internal/filewatch"
)

// FileReport tells that the files of a store were read again after a change.
type FileReport struct {
	// Err is why they could not be used, so that what they held before stays in use; nil if they are.
	Err error
	// Overdue is a revocation list whose next update was due, told once; nil if the report is of a change.
	Overdue *CRLInfo
	// Findings are what is unwise about what is in use now.
	Findings []*Finding
}

// FileStats is the state of a store's files.
type FileStats struct {
	// Reloads counts changes that were taken over while the store was in use, Errors those that could not be.
	Reloads, Errors uint64
	// Stale is true while the files hold something that cannot be used, and what they held before is in use.
	Stale bool
}

// fileCounts outlive the store of a listener, so that no counter runs backwards at a reload.
type fileCounts struct {
	reloads, errors atomic.Uint64
}

// watcher has a store follow its files.
type watcher struct {
	files   *filewatch.Set // of the watching goroutine, once it runs
	failing string         // likewise; why the files cannot be used, "" if they can
	counts  *fileCounts
	stale   atomic.Bool

	lifeMu sync.Mutex
	cancel context.CancelFunc // guarded by lifeMu; not nil once started
	closed bool               // guarded by lifeMu
}

// Start has the store read its files again whenever they change, looking every Options.Watch, until Close. report is called from one
// goroutine; it may be nil. Only the first call has an effect.
func (s *Store) Start(report func(FileReport)) {
	s.lifeMu.Lock()
	defer s.lifeMu.Unlock()
	if s.cancel != nil || s.closed || s.opts.Watch <= 0 {
		return
	}
	if report == nil {
		report = func(FileReport) {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go s.watch(ctx, report)
}

// Close ends what Start began. Handshakes go on with what the files held last. It may be called more than once.
func (s *Store) Close() {
	s.lifeMu.Lock()
	defer s.lifeMu.Unlock()
	s.closed = true
	if s.cancel != nil {
		s.cancel()
	}
}

func (s *Store) watch(ctx context.Context, report func(FileReport)) {
	t := time.NewTicker(s.opts.Watch)
	defer t.Stop()
	told := map[CRLInfo]bool{}
	s.reportOverdue(told, report)
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.look(report)
			s.reportOverdue(told, report)
		}
	}
}

// look reads the files again if they have changed, and are not being changed at the moment. While they cannot be used, every look
// tries again, as they may be good and only reading them failed; that is counted and reported once.
func (s *Store) look(report func(FileReport)) {
	if !s.files.Settled() {
		return
	}
	changed, err := s.Refresh()
	was := s.failing
	s.failing = ""
	if err != nil {
		s.failing = err.Error()
		s.files.Again()
	}
	s.stale.Store(err != nil)
	switch {
	case s.failing == was && !changed:
		return // written again as they were, or still bad
	case err != nil:
		s.counts.errors.Add(1)
	case changed:
		s.counts.reloads.Add(1)
	}
	r := FileReport{Err: err}
	if changed {
		r.Findings = s.Findings()
	}
	report(r)
}

// FileStats returns the state of the files.
func (s *Store) FileStats() FileStats {
	return FileStats{Reloads: s.counts.reloads.Load(), Errors: s.counts.errors.Load(), Stale: s.stale.Load()}
}

// paths are the files that the store reads.
func (o *Options) paths() []string {
	var list []string
	if o.IntermediatesFile != "" {
		list = append(list, o.IntermediatesFile)
	}
	for i := range o.Certificates {
		c := &o.Certificates[i]
		list = append(list, c.CertFile, c.KeyFile)
		if c.OCSPFile != "" {
			list = append(list, c.OCSPFile)
		}
	}
	if o.OCSP.follows() {
		list = append(list, o.OCSP.CAFile)
	}
	for _, a := range o.clientAuths() {
		list = append(append(list, a.CAFile), a.CRLFiles...)
	}
	return list
}
