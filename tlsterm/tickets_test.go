package tlsterm

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tickgate/internal/selfsigned"
)

// bench seals and opens tickets by the functions that crypto/tls calls.
type bench struct {
	t *testing.T
	sealer
}

func policySum(t *testing.T, o *Options) []byte {
	t.Helper()
	p, _ := o.resolve(func(key string, err error) { t.Fatalf("%s: %s", key, err) })
	return p.sum()
}

func newBench(t *testing.T, o TicketOptions) *bench {
	t.Helper()
	tickets, err := loadTickets(o, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t, sealer{tickets: tickets, policy: policySum(t, &Options{})}}
}

func (b *bench) seal() []byte {
	b.t.Helper()
	ticket, err := b.wrap(tls.ConnectionState{}, session(b.t))
	if err != nil {
		b.t.Fatal(err)
	}
	return ticket
}

func (b *bench) opens(step string, ticket []byte, want TicketResult) {
	b.t.Helper()
	ss, got := b.open(ticket, tls.ConnectionState{})
	if got != want || (ss != nil) != (want == TicketAccepted) {
		b.t.Errorf("%s: %s (session %t), want %s", step, got, ss != nil, want)
	}
}

// session returns a session of TLS 1.3 as crypto/tls would have it sealed.
func session(t testing.TB) *tls.SessionState {
	t.Helper()
	text := []byte{0x03, 0x04, 1, 0x13, 0x01}            // version, a server's, suite
	text = append(text, 0, 0, 0, 0, 0x6a, 0, 0, 0)       // when it was created
	text = append(text, 32)                              // the secret
	text = append(text, bytes.Repeat([]byte{7}, 32)...)  //
	text = append(text, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) // no extras, flags, certificates and chains
	ss, err := tls.ParseSessionState(text)
	if err != nil {
		t.Fatal(err)
	}
	return ss
}

func TestMemoryRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, TicketOptions{Rotate: time.Hour, OldKeys: 2})
		b.tickets.Start(nil)
		defer b.tickets.Close()
		at := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}
		rotations := func(step string, n uint64, keys int, age time.Duration) {
			t.Helper()
			if st := b.tickets.Stats(); st.Rotations != n || st.Keys != keys || st.KeyAge != age || !st.Up || st.Fallback {
				t.Errorf("%s: %+v, want %d rotations, %d keys, %v", step, st, n, keys, age)
			}
		}
		// 1. The first key seals and opens.
		rotations("1", 0, 1, 0)
		first := b.seal()
		b.opens("1", first, TicketAccepted)
		// 2. It still does just before the rotation.
		at(time.Hour - time.Millisecond)
		rotations("2", 0, 1, time.Hour-time.Millisecond)
		last := b.seal()
		// 3. A second key seals, the first opens.
		at(2 * time.Millisecond)
		rotations("3", 1, 2, time.Millisecond)
		second := b.seal()
		if bytes.Equal(first[:keyNameSize], second[:keyNameSize]) {
			t.Error("3: sealed with the first key")
		}
		b.opens("3", first, TicketAccepted)
		b.opens("3", last, TicketAccepted)
		b.opens("3", second, TicketAccepted)
		// 4. A third one.
		at(time.Hour)
		rotations("4", 2, 3, time.Millisecond)
		b.opens("4", first, TicketAccepted)
		// 5. With the fourth the first is gone, and known as expired.
		at(time.Hour)
		rotations("5", 3, 3, time.Millisecond)
		b.opens("5", first, TicketExpired)
		b.opens("5", last, TicketExpired)
		b.opens("5", second, TicketAccepted)
		// 6. Hours later the second is, too.
		at(time.Hour)
		b.opens("6", second, TicketExpired)
		b.opens("6", b.seal(), TicketAccepted)
		// 7. Closed, nothing rotates; the key that seals is used beyond its time, and says so.
		b.tickets.Close()
		b.tickets.Close()
		rotations("7", 4, 3, time.Millisecond)
		at(10 * time.Hour)
		rotations("7", 4, 3, 10*time.Hour+time.Millisecond)
		b.opens("7", b.seal(), TicketExpired)
	})
}

func TestTicketResults(t *testing.T) {
	b, other := newBench(t, TicketOptions{}), newBench(t, TicketOptions{})
	ticket := b.seal()
	b.opens("own", ticket, TicketAccepted)
	b.opens("of another process", other.seal(), TicketUnknownKey)
	b.opens("empty", nil, TicketMalformed)
	b.opens("the name alone", ticket[:keyNameSize], TicketMalformed)
	b.opens("cut", ticket[:len(ticket)-1], TicketMalformed)
	b.opens("short", []byte("short"), TicketMalformed)
	for i := range ticket {
		changed := bytes.Clone(ticket)
		changed[i] ^= 1
		want := TicketMalformed
		if i < keyNameSize {
			want = TicketUnknownKey
		}
		b.opens("one bit changed", changed, want)
	}
	strict := &bench{t, sealer{tickets: b.tickets, policy: policySum(t, &Options{MinVersion: "1.3"})}}
	strict.opens("other options", ticket, TicketOtherPolicy)
	b.opens("other options", strict.seal(), TicketOtherPolicy)
	if !bytes.Equal(policySum(t, &Options{Certificates: make([]Certificate, 1)}), policySum(t, &Options{Tickets: TicketOptions{Rotate: 1}})) {
		t.Error("certificates or tickets are a part of the policy")
	}
	seen := map[string]bool{}
	for _, r := range TicketResults() {
		seen[r.String()] = true
	}
	if len(seen) != int(numTicketResults) || TicketResult(99).String() != "unknown" {
		t.Errorf("words: %v", seen)
	}
}

// Clients of TLS 1.2 that have no ticket send the extension all the same: that is no ticket that was presented.
func TestNoTicketIsNotCounted(t *testing.T) {
	s := mustLoad(t, &Options{Certificates: []Certificate{files(t, selfsigned.ECDSA, "a.test")}}, nil)
	c := anyCert("a.test")
	c.MaxVersion, c.ClientSessionCache = tls.VersionTLS12, tls.NewLRUClientSessionCache(1)
	f := func(step string, resumed bool, want [numTicketResults]uint64) {
		t.Helper()
		st, serverErr, clientErr := connect(t, s, c)
		if serverErr != nil || clientErr != nil || st.DidResume != resumed {
			t.Fatalf("%s: resumed is %t, want %t (%v, %v)", step, st.DidResume, resumed, serverErr, clientErr)
		}
		if got := s.Tickets().Stats().Results; got != want {
			t.Errorf("%s: results %v, want %v", step, got, want)
		}
	}
	f("without a ticket", false, [numTicketResults]uint64{})
	f("with one", true, [numTicketResults]uint64{TicketAccepted: 1})
}

// Opening a ticket allocates what crypto/tls does, and nothing else.
func TestOpenAllocates(t *testing.T) {
	if raceEnabled {
		return // it allocates by itself
	}
	b := newBench(t, TicketOptions{})
	set := b.tickets.set.Load()
	ticket := b.seal()
	theirs := testing.AllocsPerRun(200, func() { _, _ = set.keys[0].keeper.DecryptTicket(ticket[keyNameSize:], tls.ConnectionState{}) })
	ours := testing.AllocsPerRun(200, func() { _, _ = b.unwrap(ticket, tls.ConnectionState{}) })
	if ours != theirs {
		t.Errorf("%v allocations, crypto/tls makes %v", ours, theirs)
	}
	ticket[0] ^= 1
	if n := testing.AllocsPerRun(200, func() { _, _ = b.unwrap(ticket, tls.ConnectionState{}) }); n != 0 {
		t.Errorf("%v allocations for a stranger's ticket, want 0", n)
	}
}

// keyFile writes a key file of n bytes.
func keyFile(t *testing.T, name string, fill byte, n int) string {
	t.Helper()
	if err := os.WriteFile(name, bytes.Repeat([]byte{fill}, n), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestTicketFiles(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	load := func(files ...string) *bench {
		t.Helper()
		return newBench(t, TicketOptions{Source: "file", Files: files})
	}
	fails := func(want string, files ...string) {
		t.Helper()
		_, err := loadTickets(TicketOptions{Source: "file", Files: files}, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", files, err, want)
		}
	}
	short, long := keyFile(t, in("short"), 1, 48), keyFile(t, in("long"), 2, 80)
	// Two processes with the same file open each other's tickets, in either format.
	for _, file := range []string{short, long} {
		load(file).opens(file, load(file).seal(), TicketAccepted)
	}
	load(short).opens("another file", load(long).seal(), TicketUnknownKey)
	// The first of several seals, the others open.
	both := load(long, short)
	load(long).opens("first", both.seal(), TicketAccepted)
	both.opens("second", load(short).seal(), TicketAccepted)
	load(short).opens("first", both.seal(), TicketUnknownKey)
	if n := both.tickets.Stats().Keys; n != 2 {
		t.Errorf("%d keys, want 2", n)
	}
	if n := load(long, long).tickets.Stats().Keys; n != 1 {
		t.Errorf("one file twice: %d keys, want 1", n)
	}
	// A folder stands for its files, the last name first.
	if err := os.MkdirAll(in("keys/folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	keyFile(t, in("keys/2026-01-01"), 3, 48)
	newest := keyFile(t, in("keys/2026-01-02"), 4, 80)
	keyFile(t, in("keys/.2026-01-03.partial"), 5, 17)
	folder := load(in("keys"))
	load(newest).opens("the last name seals", folder.seal(), TicketAccepted)
	folder.opens("the other opens", load(in("keys/2026-01-01")).seal(), TicketAccepted)
	// One that seals though it was written in the future, by a clock that is ahead.
	if err := os.Chtimes(newest, time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	load(newest).opens("from the future", load(in("keys")).seal(), TicketAccepted)

	fails("files is empty")
	fails("no such file", in("none"))
	fails("no file in this folder", in("keys/folder"))
	fails(`has 47 bytes (want 48 or 80`, keyFile(t, in("47"), 1, 47))
	fails(`has 0 bytes`, keyFile(t, in("0"), 1, 0))
	fails(`has 96 bytes`, keyFile(t, in("96"), 1, 96))
	fails("has 49 bytes", short, keyFile(t, in("keys/49"), 1, 49), in("keys"))
}

// TestTicketFilesWatched goes through what happens to files while they are watched. The clock
// is simulated, the files are real.
func TestTicketFilesWatched(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	keyFile(t, a, 1, 48)
	keyFile(t, b, 2, 48)
	synctest.Test(t, func(t *testing.T) {
		w := newBench(t, TicketOptions{Source: "file", Files: []string{a, b}})
		var reports []TicketReport
		w.tickets.Start(func(r TicketReport) { reports = append(reports, r) })
		defer w.tickets.Close()
		look := func(step string, rotations, failures uint64, up bool) {
			t.Helper()
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if st := w.tickets.Stats(); st.Rotations != rotations || st.Errors != failures || st.Up != up {
				t.Errorf("%s: %+v, want %d rotations, %d errors, up %t", step, st, rotations, failures, up)
			}
		}
		first := w.seal()
		// 1. Nothing changes.
		look("1", 0, 0, true)
		// 2. The usual rotation: the first becomes the second.
		keyFile(t, b, 1, 48)
		keyFile(t, a, 3, 80)
		look("2", 1, 0, true)
		w.opens("2", first, TicketAccepted)
		second := w.seal()
		// 3. A bad file keeps all keys, and is reported once.
		keyFile(t, a, 4, 33)
		look("3", 1, 1, false)
		look("3", 1, 2, false)
		w.opens("3", second, TicketAccepted)
		w.opens("3", w.seal(), TicketAccepted)
		if len(reports) != 1 || reports[0].Err == nil || !strings.Contains(reports[0].Err.Error(), "33 bytes") {
			t.Errorf("3: reports %v", reports)
		}
		// 4. So does one that is gone.
		if err := os.Remove(a); err != nil {
			t.Fatal(err)
		}
		look("4", 1, 3, false)
		w.opens("4", first, TicketAccepted)
		// 5. Repaired: the key of 2 in its new place.
		keyFile(t, b, 3, 80)
		keyFile(t, a, 5, 48)
		look("5", 2, 3, true)
		w.opens("5", second, TicketAccepted)
		w.opens("5", first, TicketExpired)
		if len(reports) != 2 || reports[1].Err != nil {
			t.Errorf("5: reports %v", reports)
		}
		// 6. A reload looks at once, and refuses a bad file.
		keyFile(t, a, 6, 48)
		o := w.tickets.opts
		if same, err := loadTickets(o, w.tickets); same != w.tickets || err != nil {
			t.Errorf("6: the same tickets %t, %v", same == w.tickets, err)
		}
		if n := w.tickets.Stats().Rotations; n != 3 {
			t.Errorf("6: %d rotations, want 3", n)
		}
		keyFile(t, a, 6, 1)
		if _, err := loadTickets(o, w.tickets); err == nil {
			t.Error("6: a bad file was taken")
		}
	})
}

// sharedText is a KeySource in memory.
type sharedText struct {
	mu     sync.Mutex
	text   []byte
	away   bool
	swaps  int
	lost   int // swaps that others won
	closed int
}

var errAway = errors.New("away")

func (s *sharedText) Load(context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return nil, errAway
	}
	return s.text, nil
}

func (s *sharedText) Swap(_ context.Context, old, next []byte, _ time.Duration) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return false, errAway
	}
	if !bytes.Equal(s.text, old) {
		s.lost++
		return false, nil
	}
	s.text = next
	s.swaps++
	return true, nil
}

func (s *sharedText) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
	return nil
}

func (s *sharedText) set(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

// TestSharedKeys goes through the life of two processes that share keys.
func TestSharedKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &sharedText{}
		var failures atomic.Int32
		start := func() *bench {
			b := newBench(t, TicketOptions{Source: "redis", Rotate: time.Hour, OldKeys: 2})
			b.tickets.SetSource(src)
			b.tickets.Prime()
			b.tickets.Start(func(r TicketReport) {
				if r.Err != nil {
					failures.Add(1)
				}
			})
			return b
		}
		wait := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}
		a, b := start(), start()
		both := func(step string) {
			t.Helper()
			a.opens(step+", of b at a", b.seal(), TicketAccepted)
			b.opens(step+", of a at b", a.seal(), TicketAccepted)
			if as, bs := a.tickets.Stats(), b.tickets.Stats(); as.Fallback || bs.Fallback || !as.Up || !bs.Up {
				t.Errorf("%s: %+v, %+v", step, as, bs)
			}
		}
		// 1. At once, as each has looked before its start.
		both("1")
		first := a.seal()
		// 2. One of them rotates, and both seal with the new key at the same moment.
		wait(time.Hour - time.Second)
		both("2")
		if n := src.swaps; n != 2 {
			t.Errorf("2: %d keys were written, want 2", n)
		}
		if !bytes.Equal(a.seal()[:keyNameSize], first[:keyNameSize]) {
			t.Error("2: the next key seals too early")
		}
		wait(time.Second)
		x, y := a.seal(), b.seal()
		if !bytes.Equal(x[:keyNameSize], y[:keyNameSize]) || bytes.Equal(x[:keyNameSize], first[:keyNameSize]) {
			t.Error("2: not both seal with the new key")
		}
		b.opens("2", first, TicketAccepted)
		// 3. The source goes away: everything as before, for as long as the keys last.
		wait(time.Minute)
		src.set(true)
		wait(time.Hour)
		a.opens("3", b.seal(), TicketAccepted)
		b.opens("3", x, TicketAccepted)
		if st := a.tickets.Stats(); st.Up || st.Fallback || st.Errors == 0 || failures.Load() != 2 {
			t.Errorf("3: %+v, %d failures reported, want 2", st, failures.Load())
		}
		wait(58 * time.Minute)
		late := a.seal()
		// 4. Then each has a key of its own.
		wait(2 * time.Minute)
		if st := a.tickets.Stats(); st.Up || !st.Fallback {
			t.Errorf("4: %+v", st)
		}
		own := a.seal()
		a.opens("4", own, TicketAccepted)
		b.opens("4", own, TicketUnknownKey)
		// 5. A process that starts meanwhile serves, too.
		c := start()
		c.opens("5", c.seal(), TicketAccepted)
		c.tickets.Close()
		// 6. It is back, and all agree again; what was sealed meanwhile is opened by who sealed it.
		src.set(false)
		wait(2 * time.Minute) // the longest back-off, and a round for the others
		both("6")
		a.opens("6", own, TicketAccepted)
		before := a.seal()
		// 7. It lost its data: the keys go on.
		src.mu.Lock()
		src.text = nil
		src.mu.Unlock()
		wait(15 * time.Second)
		both("7")
		b.opens("7", before, TicketAccepted)
		wait(time.Hour + 45*time.Minute)
		both("7")
		a.opens("7, two rotations after it was sealed", late, TicketAccepted)
		b.opens("7, two rotations after it was sealed", late, TicketAccepted)
		wait(15 * time.Minute)
		a.opens("7, later", late, TicketExpired)
		before = b.seal()
		// 8. A restart of both finds the keys.
		a.tickets.Close()
		b.tickets.Close()
		synctest.Wait()
		a, b = start(), start()
		b.opens("8", before, TicketAccepted)
		// 9. Something else is stored there: the keys stay, and it is not overwritten.
		src.mu.Lock()
		src.text = []byte("something else")
		src.mu.Unlock()
		wait(time.Minute)
		a.opens("9", before, TicketAccepted)
		if st := a.tickets.Stats(); st.Up || string(src.text) != "something else" {
			t.Errorf("9: %+v, %q", st, src.text)
		}
		a.tickets.Close()
		b.tickets.Close()
		synctest.Wait()
		if src.closed != 5 {
			t.Errorf("the source was closed %d times, want 5", src.closed)
		}
	})
}

func TestBackedOff(t *testing.T) {
	f := func(wait time.Duration, failures int, want time.Duration) {
		t.Helper()
		if got := backedOff(wait, failures, time.Minute); got != want {
			t.Errorf("%v after %d failures: %v, want %v", wait, failures, got, want)
		}
	}
	f(5*time.Second, 0, 5*time.Second)
	f(5*time.Second, 1, 5*time.Second)
	f(5*time.Second, 2, 10*time.Second)
	f(5*time.Second, 4, 40*time.Second)
	f(5*time.Second, 1000, time.Minute)
	f(time.Hour, 9, time.Hour)
}

func TestNextKey(t *testing.T) {
	o := &TicketOptions{Rotate: time.Hour, OldKeys: 2}
	start := time.Unix(1_000_000, 0)
	keys := []*ticketKey{randomTicketKey(start, start.Add(o.life()))}
	f := func(after, lead time.Duration, wantFrom time.Duration, want bool) {
		t.Helper()
		from, due := nextKey(keys, start.Add(after), lead, o)
		if due != want || due && !from.Equal(start.Add(wantFrom)) {
			t.Errorf("after %v: %t, from %v; want %t, %v", after, due, from.Sub(start), want, wantFrom)
		}
	}
	f(0, 0, 0, false)
	f(time.Hour-1, 0, 0, false)
	f(time.Hour, 0, time.Hour, true)
	f(2*time.Hour, 0, 2*time.Hour, true)
	f(time.Hour-time.Minute-1, time.Minute, 0, false)
	f(time.Hour-time.Minute, time.Minute, time.Hour, true)
	f(2*time.Hour, time.Minute, 2*time.Hour+time.Minute, true)
	f(-time.Hour, time.Minute, 0, false) // a clock behind the one that made the key
	if from, due := nextKey(nil, start, time.Minute, o); !due || !from.Equal(start) {
		t.Errorf("without keys: %t, %v", due, from)
	}
}

// TestResumeAcrossStores resumes sessions of one store at another that shares its key file, as
// after a restart or at another process.
func TestResumeAcrossStores(t *testing.T) {
	cert := files(t, selfsigned.ECDSA, "a.example")
	key := keyFile(t, filepath.Join(t.TempDir(), "key"), 9, 48)
	options := func(change func(o *Options)) *Options {
		o := &Options{Certificates: []Certificate{cert}, Tickets: TicketOptions{Source: "file", Files: []string{key}}}
		if change != nil {
			change(o)
		}
		return o
	}
	f := func(what string, version uint16, second func(o *Options), want bool, result TicketResult) {
		t.Helper()
		conf := anyCert("a.example")
		conf.MinVersion, conf.MaxVersion = version, version
		conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		one, two := mustLoad(t, options(nil), nil), mustLoad(t, options(second), nil)
		for i, s := range []*Store{one, two} {
			state, serverErr, clientErr := connect(t, s, conf)
			if serverErr != nil || clientErr != nil {
				t.Fatalf("%s: %v, %v", what, serverErr, clientErr)
			}
			if i == 1 && state.DidResume != want {
				t.Errorf("%s, %s: resumed %t, want %t", what, tls.VersionName(version), state.DidResume, want)
			}
		}
		if n := two.Tickets().Stats().Results[result]; second == nil && n != 1 {
			t.Errorf("%s: %d tickets counted as %s, want 1", what, n, result)
		}
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		f("the same file", version, nil, true, TicketAccepted)
		f("other options", version, func(o *Options) { o.UnknownName = "reject" }, false, TicketOtherPolicy)
		f("other keys", version, func(o *Options) { o.Tickets.Source = "memory" }, false, TicketUnknownKey)
		f("no tickets", version, func(o *Options) { o.Tickets.Source = "off" }, false, TicketAccepted)
	}
}

func TestTicketOptionsReload(t *testing.T) {
	cert := files(t, selfsigned.ECDSA, "a.example")
	o := &Options{Certificates: []Certificate{cert}}
	first := mustLoad(t, o, nil)
	first.Tickets().counts.issued.Add(3)
	changed := *o
	changed.MinVersion = "1.3"
	if s := mustLoad(t, &changed, first); s == first || s.Tickets() != first.Tickets() {
		t.Error("the keys did not outlive another option")
	}
	changed.Tickets.Rotate = time.Minute
	s := mustLoad(t, &changed, first)
	if s.Tickets() == first.Tickets() {
		t.Error("the keys outlived another rotation")
	}
	if n := s.Tickets().Stats().Issued; n != 3 {
		t.Errorf("%d tickets issued, want 3: a counter ran backwards", n)
	}
}
