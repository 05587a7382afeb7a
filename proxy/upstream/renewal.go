package upstream

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"tickgate/config"
	"tickgate/internal/filewatch"
)

// credentials is the identity of an upstream over time. It outlives a reload that leaves the TLS settings as they are, and the backends with
// it. Handshakes load a pointer; files are read by reloads and by one goroutine, which looks whether they have changed.
type credentials struct {
	// Static.
	fam      *family
	settings config.BackendTLS // without Watch

	current atomic.Pointer[identity] // never nil
	trouble atomic.Pointer[string]   // why what the files hold is not in use; nil if it is

	// Guarded by fam.mu.
	refs int

	mu    sync.Mutex // held for no I/O
	read  uint64     // the latest read that current agrees with
	every time.Duration
	stop  chan struct{} // ends the goroutine; nil if there is none
}

// acquireCredentials returns those of the Set that is replaced, if they are for the same settings, else new ones.
func (f *family) acquireCredentials(settings config.BackendTLS, id *identity, old *Set) *credentials {
	f.mu.Lock()
	defer f.mu.Unlock()
	if old != nil && old.creds != nil && old.creds.settings == settings {
		old.creds.refs++
		return old.creds
	}
	c := &credentials{fam: f, settings: settings, refs: 1, read: id.read}
	c.current.Store(id)
	return c
}

// releaseCredentials gives a reference back, and ends the goroutine with the last one.
func (f *family) releaseCredentials(c *credentials) {
	f.mu.Lock()
	c.refs--
	last := c.refs == 0
	f.mu.Unlock()
	if last {
		c.watch(0, nil)
	}
}

// adopt goes over to what a reload has read, and looks for changes as the new configuration says.
func (c *credentials) adopt(found tlsRead, every time.Duration) {
	c.take(found.id)
	if found.files == nil {
		every = 0
	}
	c.watch(every, found.files)
}

// watch looks every so often whether files have changed since they were stamped; 0 does not. If it does so already, it goes on undisturbed.
func (c *credentials) watch(every time.Duration, files *filewatch.Set) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if every == c.every {
		return
	}
	// Not waited for, as it may look at a file system that hangs. What it still reads counts only if nobody has read it later.
	if c.stop != nil {
		close(c.stop)
	}
	c.every, c.stop = every, nil
	if every > 0 {
		c.stop = make(chan struct{})
		w := &watcher{creds: c, files: files}
		go w.run(every, c.stop)
	}
}

// take makes id the identity of new connections, and reports whether that is a change. What was read before what is in use is ignored.
func (c *credentials) take(id *identity) (changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id.read < c.read {
		return false
	}
	c.read = id.read
	c.trouble.Store(nil)
	old := c.current.Load()
	if id.sums == old.sums {
		return false
	}
	now := time.Now()
	c.current.Store(id)
	old.ended.Store(&now)
	return true
}

// fail is take for files that cannot be used.
func (c *credentials) fail(read uint64, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if read > c.read {
		c.trouble.Store(&why)
	}
}

// watcher reads the files of credentials again when they have changed. It belongs to its goroutine.
type watcher struct {
	creds  *credentials
	files  *filewatch.Set
	told   string // the last trouble that was logged
	toldAt time.Time
	// What noteExpiry has logged.
	noted *identity
	stage expiryStage
}

func (w *watcher) run(every time.Duration, stop <-chan struct{}) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
			w.look(w.creds.fam.reg.opts.Now())
		}
	}
}

// look reads the files if they have changed and hold still.
func (w *watcher) look(now time.Time) {
	if w.files.Settled() {
		w.reread(now)
	}
	w.noteExpiry(now)
}

func (w *watcher) reread(now time.Time) {
	c := w.creds
	id, err := c.fam.reg.readIdentity(c.fam.name, &c.settings)
	if err == nil {
		err = c.refuse(id, now)
	}
	if err != nil {
		w.files.Again() // it may be what does not change the files, such as a lack of descriptors, or the time
		c.fam.renewalFails.Add(1)
		w.complain(id.read, err, now)
		return
	}
	recovered := c.trouble.Load() != nil
	changed := c.take(id)
	if changed {
		c.fam.renewals.Add(1)
	}
	if changed || recovered {
		w.told = ""
		e := c.fam.reg.opts.Log.Info().Str("upstream", c.fam.name)
		if id.leaf != nil {
			e = e.Stringer("subject", id.leaf.Subject).Time("not_after", id.leaf.NotAfter)
		}
		e.Msg("TLS files towards backends are in use as they are now")
	}
}

// refuse returns an error for a client certificate that is not valid while the present one is: nobody wants that change, and a
// certificate for later is taken when its time comes. Reloads go over to it all the same, after the warning of the configuration's check.
func (c *credentials) refuse(id *identity, now time.Time) error {
	present := c.current.Load()
	if id.sums == present.sums || id.validAt(now) || !present.validAt(now) {
		return nil
	}
	return fmt.Errorf("upstreams.%s.tls.cert_file: %q is valid only from %s until %s", c.fam.name, c.settings.CertFile,
		id.leaf.NotBefore.UTC().Format(time.RFC3339), id.leaf.NotAfter.UTC().Format(time.RFC3339))
}

// reminder is the time after which the same trouble is logged again.
const reminder = time.Hour

func (w *watcher) complain(read uint64, err error, now time.Time) {
	text := err.Error()
	w.creds.fail(read, text)
	if text == w.told && now.Sub(w.toldAt) < reminder {
		return
	}
	w.told, w.toldAt = text, now
	w.creds.fam.reg.opts.Log.Warn().Str("upstream", w.creds.fam.name).Err(err).
		Msg("TLS files towards backends cannot be used, what they held before stays in use")
}

// expiryStage is how near the end of a client certificate is.
type expiryStage uint8

const (
	expiryFar expiryStage = iota
	expirySoon
	expiryPast
)

// Soon is the last eighth of a certificate's time, and at most the last week: those who renew it do so at two thirds, or later if it is short-lived.
const (
	soonShare = 8
	soonMost  = 7 * 24 * time.Hour
)

// expiryOf is the stage of an identity; one without a client certificate does not expire.
func expiryOf(id *identity, now time.Time) expiryStage {
	if id.leaf == nil {
		return expiryFar
	}
	switch left := id.leaf.NotAfter.Sub(now); {
	case left < 0:
		return expiryPast
	case left < min(soonMost, id.leaf.NotAfter.Sub(id.leaf.NotBefore)/soonShare):
		return expirySoon
	}
	return expiryFar
}

// noteExpiry logs once when the certificate in use is about to expire, and once when it has.
func (w *watcher) noteExpiry(now time.Time) {
	id := w.creds.current.Load()
	if id != w.noted {
		w.noted, w.stage = id, expiryFar
	}
	stage := expiryOf(id, now)
	if stage <= w.stage {
		return
	}
	w.stage = stage
	text := "client certificate towards backends expires soon"
	if stage == expiryPast {
		text = "client certificate towards backends has expired"
	}
	w.creds.fam.reg.opts.Log.Warn().Str("upstream", w.creds.fam.name).Str("cert_file", w.creds.settings.CertFile).
		Time("not_after", id.leaf.NotAfter).Msg(text)
}

// hasFiles reports whether there is anything to renew.
func (c *credentials) hasFiles() bool { return c.settings.CAFile != "" || c.settings.CertFile != "" }

func (c *credentials) status() *TLSStatus {
	if !c.hasFiles() {
		return nil
	}
	st := &TLSStatus{}
	if leaf := c.current.Load().leaf; leaf != nil {
		st.Subject, st.NotAfter = leaf.Subject.String(), leaf.NotAfter
	}
	if t := c.trouble.Load(); t != nil {
		st.Error = *t
	}
	return st
}

func (c *credentials) writeMetrics(w io.Writer) {
	if !c.hasFiles() {
		return
	}
	label := fmt.Sprintf("upstream=%q", c.fam.name)
	if leaf := c.current.Load().leaf; leaf != nil {
		metrics.WriteGaugeUint64(w, fmt.Sprintf("tickgate_upstream_tls_certificate_expiry_timestamp_seconds{%s,cert_file=%q}", label, c.settings.CertFile),
			uint64(leaf.NotAfter.Unix()))
	}
	stale := uint64(0)
	if c.trouble.Load() != nil {
		stale = 1
	}
	metrics.WriteGaugeUint64(w, "tickgate_upstream_tls_files_stale{"+label+"}", stale)
	metrics.WriteCounterUint64(w, "tickgate_upstream_tls_files_reloads_total{"+label+"}", c.fam.renewals.Load())
	metrics.WriteCounterUint64(w, "tickgate_upstream_tls_files_errors_total{"+label+"}", c.fam.renewalFails.Load())
}
