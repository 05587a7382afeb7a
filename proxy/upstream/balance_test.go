package upstream

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"tickgate/config"
)

var policies = []string{"round_robin", "least_conn", "p2c", "hash", "random"}

func members(weights ...int) []member {
	list := make([]member, len(weights))
	for i, w := range weights {
		list[i] = member{b: &Backend{id: uint32(i + 1), label: fmt.Sprintf("10.0.0.%d:80", i+1)}, weight: w}
	}
	return list
}

func TestSmoothTurns(t *testing.T) {
	f := func(want string, weights ...int) {
		t.Helper()
		var got strings.Builder
		for _, i := range smoothTurns(members(weights...)) {
			got.WriteByte('a' + byte(i))
		}
		if got.String() != want {
			t.Errorf("weights %v: got %s, want %s", weights, got.String(), want)
		}
	}
	f("a", 7)
	f("abc", 1, 1, 1)
	f("abc", 1000, 1000, 1000)
	f("aba", 2, 1)
	f("aba", 20, 10)
	f("aabacaa", 5, 1, 1) // the example of nginx's commit message
	f("bab", 1, 2)
}

func TestTurnsAreBounded(t *testing.T) {
	weights := make([]int, 300)
	sum := 0
	for i := range weights {
		weights[i] = 700 + i
		sum += weights[i]
	}
	weights[0], sum = 1, sum-699
	turns := smoothTurns(members(weights...))
	if len(turns) > maxTurns+len(weights) {
		t.Fatalf("the schedule has %d turns, want about %d", len(turns), maxTurns)
	}
	count := make([]int, len(weights))
	for _, i := range turns {
		count[i]++
	}
	for i, w := range weights {
		got, want := float64(count[i])/float64(len(turns)), float64(w)/float64(sum)
		if math.Abs(got-want) > 0.001*999/float64(sum)*1000 {
			t.Errorf("member %d of weight %d: share %.6f, want %.6f", i, w, got, want)
		}
		if count[i] == 0 {
			t.Errorf("member %d never gets a turn", i)
		}
	}
}

// shares picks n times and returns how often each backend was picked.
func shares(s *Set, n int, key func(i int) uint64) map[string]int {
	got := map[string]int{}
	for i := range n {
		got[short(s.Pick(key(i), nil))]++
	}
	return got
}

func noKey(int) uint64 { return 0 }

func TestRoundRobinIsExact(t *testing.T) {
	s := newSet(t, Options{}, upstreamOf("round_robin", servers(5, 3, 2)...))
	got := shares(s, 1000, noKey)
	if got["1"] != 500 || got["2"] != 300 || got["3"] != 200 {
		t.Errorf("shares %v, want 500, 300, 200", got)
	}
}

func TestRoundRobinAroundAFullBackend(t *testing.T) {
	list := servers(1, 1, 1)
	list[1].MaxInFlight = 1
	s := newSet(t, Options{}, upstreamOf("round_robin", list...))
	s.Backends()[1].Begin()
	if got := shares(s, 600, noKey); got["1"] != 300 || got["3"] != 300 {
		t.Errorf("shares %v, want the two others even", got)
	}
}

func TestWeightedShares(t *testing.T) {
	f := func(balance string, tolerance float64, key func(i int) uint64) {
		t.Helper()
		s := newSet(t, Options{Rand: seeded()}, upstreamOf(balance, servers(6, 3, 1)...))
		const n = 100_000
		got := shares(s, n, key)
		for addr, want := range map[string]float64{"1": 0.6, "2": 0.3, "3": 0.1} {
			if share := float64(got[addr]) / n; math.Abs(share-want) > tolerance*want {
				t.Errorf("%s: backend %s has a share of %.4f, want %.2f within %.0f%%", balance, addr, share, want, 100*tolerance)
			}
		}
	}
	f("random", 0.02, noKey)
	f("hash", 0.02, noKey) // without a key: random
	f("hash", 0.25, func(i int) uint64 { return uint64(i + 1) })
}

// Requests stay in flight here, so the loads must even out by weight.
func TestLoadsEvenOutByWeight(t *testing.T) {
	f := func(balance string, tolerance float64) {
		t.Helper()
		s := newSet(t, Options{Rand: seeded()}, upstreamOf(balance, servers(5, 3, 2)...))
		for _, b := range s.Backends() {
			b.Begin()
			b.End(time.Millisecond, true)
		}
		const n = 1000
		for range n {
			s.Take(0, nil)
		}
		for i, want := range []float64{0.5, 0.3, 0.2} {
			if share := float64(s.Backends()[i].InFlight()) / n; math.Abs(share-want) > tolerance {
				t.Errorf("%s: backend %d has %.3f of the load, want %.1f", balance, i+1, share, want)
			}
		}
	}
	f("least_conn", 0.002)
	f("p2c", 0.03)
}

func TestLeastConn(t *testing.T) {
	f := func(want string, weights []int, inFlight ...int) {
		t.Helper()
		s := newSet(t, Options{}, upstreamOf("least_conn", servers(weights...)...))
		for i, n := range inFlight {
			for range n {
				s.Backends()[i].Begin()
			}
		}
		var got strings.Builder
		for range len(want) {
			got.WriteString(short(s.Pick(0, nil)))
		}
		if got.String() != want {
			t.Errorf("weights %v, in flight %v: picked %s, want %s", weights, inFlight, got.String(), want)
		}
	}
	f("111", []int{1, 1, 1}, 0, 1, 2)
	f("333", []int{1, 1, 1}, 5, 4, 3)
	f("123123", []int{1, 1, 1}, 2, 2, 2) // equal ones take turns
	f("2222", []int{1, 4}, 1, 3)         // 2/1 against 4/4
	f("1111", []int{1, 4}, 0, 7)         // 1/1 against 8/4
}

func TestPowerOfTwo(t *testing.T) {
	type state struct {
		latency  time.Duration // 0 is unobserved
		ok       bool
		inFlight int
	}
	f := func(name, want string, states ...state) {
		t.Helper()
		now := time.Unix(1000, 0)
		s := newSet(t, Options{Rand: seeded(), Now: func() time.Time { return now }}, upstreamOf("p2c", servers(1, 1)...))
		for i, st := range states {
			b := s.Backends()[i]
			if st.latency > 0 {
				b.Begin()
				b.End(st.latency, st.ok)
			}
			for range st.inFlight {
				b.Begin()
			}
		}
		for range 20 { // both are drawn each time, so the order of the draws must not matter
			if got := short(s.Pick(0, nil)); got != want {
				t.Errorf("%s: picked %s, want %s", name, got, want)
				return
			}
		}
	}
	const ms = time.Millisecond
	f("the faster one", "2", state{10 * ms, true, 0}, state{5 * ms, true, 0})
	f("the one with fewer in flight", "1", state{5 * ms, true, 1}, state{5 * ms, true, 2})
	f("latency times load", "2", state{5 * ms, true, 9}, state{20 * ms, true, 1})
	f("an unobserved one is tried", "2", state{1 * ms, true, 0}, state{0, true, 0})
	f("but by one request only", "1", state{5 * ms, true, 0}, state{0, true, 1})
	f("failing fast is not being fast", "1", state{50 * ms, true, 0}, state{1, false, 0})
}

func TestPassesOver(t *testing.T) {
	// The servers are 1 and 2, and the backups 3 and 4. full, down, drained and tried list
	// those that are; want lists what may be picked.
	f := func(want, down, drained, full, tried string) {
		t.Helper()
		for _, balance := range policies {
			list := servers(1, 1, 1, 1)
			for i := range list {
				list[i].MaxInFlight = 1
				list[i].Backup = i >= 2
				list[i].Drain = strings.Contains(drained, fmt.Sprint(i+1))
			}
			s := newSet(t, Options{Rand: seeded()}, upstreamOf(balance, list...))
			var avoid Tried
			for _, b := range s.Backends() {
				if strings.Contains(down, short(b)) {
					b.SetHealth(false, "test")
				}
				if strings.Contains(full, short(b)) {
					b.Begin()
				}
				if strings.Contains(tried, short(b)) {
					avoid.Add(b)
				}
			}
			got := map[string]bool{}
			for i := range 200 {
				got[short(s.Pick(uint64(i), &avoid))] = true
			}
			for _, c := range strings.Split(want, "") {
				if !got[c] {
					t.Errorf("%s: down=%q drained=%q full=%q tried=%q: %s was never picked", balance, down, drained, full, tried, c)
				}
				delete(got, c)
			}
			if len(got) > 0 {
				t.Errorf("%s: down=%q drained=%q full=%q tried=%q: picked %v, want only %s", balance, down, drained, full, tried, got, want)
			}
		}
	}
	f("12", "", "", "", "")
	f("2", "1", "", "", "")
	f("2", "", "1", "", "")
	f("2", "", "", "1", "")
	f("2", "", "", "", "1")
	f("34", "12", "", "", "")
	f("34", "1", "2", "", "")
	f("34", "1", "", "2", "")
	f("34", "", "", "12", "")
	f("34", "1", "", "", "2") // a backup is another one
	f("4", "123", "", "", "")
	f("4", "1", "2", "3", "")
	f("12", "34", "", "", "12") // only tried ones are left
	f("34", "12", "", "", "34")
	f("-", "1234", "", "", "")
	f("-", "", "1234", "", "")
	f("-", "12", "", "34", "")
}

func TestTried(t *testing.T) {
	var none *Tried
	list := members(make([]int, MaxTried+1)...)
	if none.Has(list[0].b) || none.Len() != 0 {
		t.Error("a nil set is not empty")
	}
	var tried Tried
	for i := range list {
		tried.Add(list[i].b)
	}
	for i := range list {
		if got, want := tried.Has(list[i].b), i < MaxTried; got != want {
			t.Errorf("after %d adds: Has(%d) = %v, want %v", len(list), i, got, want)
		}
	}
	if tried.Len() != MaxTried {
		t.Errorf("Len = %d, want %d", tried.Len(), MaxTried)
	}
}

func TestMaxInFlightIsNeverExceeded(t *testing.T) {
	const limit = 3
	list := servers(1, 1)
	list[0].MaxInFlight, list[1].MaxInFlight = limit, limit
	s := newSet(t, Options{}, upstreamOf("round_robin", list...))
	var wg sync.WaitGroup
	var over, refused sync.Map
	start := make(chan struct{})
	for range 16 {
		wg.Go(func() {
			<-start
			for i := range 2000 {
				b := s.Take(0, nil)
				if b == nil {
					refused.Store(i, true)
					continue
				}
				// Others may add one for a moment before they find that there is no room.
				if n := b.InFlight(); n > limit+16 {
					over.Store(n, true)
				}
				b.End(time.Millisecond, true)
			}
		})
	}
	close(start)
	wg.Wait()
	over.Range(func(n, _ any) bool { t.Errorf("%v requests in flight, limit %d", n, limit); return true })
	for range 2 * limit {
		if s.Take(0, nil) == nil {
			t.Fatal("a backend with room was not taken")
		}
	}
	if b := s.Take(0, nil); b != nil {
		t.Errorf("Take gave %s beyond max_in_flight", b.Address())
	}
	for _, b := range s.Backends() {
		if b.InFlight() != limit {
			t.Errorf("%s has %d in flight, want %d", b.Address(), b.InFlight(), limit)
		}
	}
}

// owners maps each key to the backend that it is picked for.
func owners(s *Set, keys int) []string {
	list := make([]string, keys)
	for i := range list {
		list[i] = short(s.Pick(uint64(i+1), nil))
	}
	return list
}

func TestHashMovesOnlyWhatItMust(t *testing.T) {
	const keys = 20_000
	weights := []int{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}
	s := newSet(t, Options{}, upstreamOf("hash", servers(weights...)...))
	before := owners(s, keys)
	gone := s.Backends()[3]
	gone.SetHealth(false, "test")
	during := owners(s, keys)
	heirs := map[string]int{}
	for i := range before {
		switch {
		case before[i] == short(gone):
			heirs[during[i]]++
		case before[i] != during[i]:
			t.Fatalf("key %d moved from %s to %s though only %s went", i, before[i], during[i], short(gone))
		}
	}
	if len(heirs) != 9 {
		t.Errorf("the keys of the backend that went moved to %v, want all 9 others", heirs)
	}
	gone.SetHealth(true, "test")
	for i, owner := range owners(s, keys) {
		if owner != before[i] {
			t.Fatalf("key %d did not return to %s", i, before[i])
		}
	}
}

func TestHashMovesLittleWhenOneIsAdded(t *testing.T) {
	const keys = 20_000
	r := newRegistry(t, Options{})
	before := owners(build(t, r, upstreamOf("hash", servers(1, 1, 1, 1)...)), keys)
	after := owners(build(t, r, upstreamOf("hash", servers(1, 1, 1, 1, 1)...)), keys)
	moved := 0
	for i := range before {
		if before[i] != after[i] {
			moved++
			if after[i] != "5" {
				t.Fatalf("key %d moved from %s to %s, want only moves to the new one", i, before[i], after[i])
			}
		}
	}
	if share := float64(moved) / keys; share < 0.15 || share > 0.25 {
		t.Errorf("%.3f of the keys moved to the fifth backend, want about 0.2", share)
	}
}

func TestHashFullBackend(t *testing.T) {
	list := servers(1, 1, 1)
	for i := range list {
		list[i].MaxInFlight = 1
	}
	s := newSet(t, Options{}, upstreamOf("hash", list...))
	got := map[string]bool{}
	for range 3 {
		got[short(s.Take(42, nil))] = true
	}
	if len(got) != 3 {
		t.Errorf("three requests of one key went to %v, want to each backend once", got)
	}
	if b := s.Take(42, nil); b != nil {
		t.Errorf("a fourth went to %s", b.Address())
	}
}

func TestHashOfBytes(t *testing.T) {
	a, alsoA, b := []byte("a"), []byte("a"), []byte("b")
	if Hash(a) == Hash(b) || Hash(a) != Hash(alsoA) {
		t.Error("Hash does not tell keys apart")
	}
	if Hash(nil) == 0 {
		t.Error("Hash(nil) is 0, which is no key")
	}
}

func TestEqualServersAddUp(t *testing.T) {
	list := append(servers(1, 1), config.Server{Address: "10.0.0.1:80", Weight: 2})
	s := newSet(t, Options{}, upstreamOf("round_robin", list...))
	if n := len(s.Backends()); n != 2 {
		t.Fatalf("%d backends, want 2", n)
	}
	if got := shares(s, 400, noKey); got["1"] != 300 {
		t.Errorf("shares %v, want 300 for the one listed twice", got)
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	if raceEnabled {
		return
	}
	for _, balance := range policies {
		list := servers(3, 2, 1, 1)
		list[3].MaxInFlight = 1
		s := newSet(t, Options{}, upstreamOf(balance, list...))
		s.Backends()[3].Begin()
		key := uint64(0)
		n := testing.AllocsPerRun(1000, func() {
			var tried Tried
			key++
			b := s.Take(key, &tried)
			tried.Add(b)
			b.End(time.Millisecond, true)
			b = s.Pick(key, &tried)
			b.Begin()
			b.Cancel()
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", balance, n)
		}
	}
}

func TestPickWhileThingsChange(t *testing.T) {
	for _, balance := range policies {
		s := newSet(t, Options{}, upstreamOf(balance, servers(3, 2, 1)...))
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for key := rand.Uint64(); ; key++ {
					select {
					case <-stop:
						return
					default:
					}
					b := s.Take(key, nil)
					if b == nil {
						t.Errorf("%s: no backend though one is always up", balance)
						return
					}
					b.End(time.Millisecond, key%2 == 0)
				}
			})
		}
		for i := range 300 {
			s.Backends()[i%2].SetHealth(i%4 < 2, "test")
			s.SetDrain("10.0.0.1:80", i%3 == 0)
			_ = s.Status()
		}
		close(stop)
		wg.Wait()
		for _, b := range s.Backends() {
			if b.InFlight() != 0 {
				t.Errorf("%s: %d in flight at the end", balance, b.InFlight())
			}
		}
	}
}

// live is smooth weighted round robin as it would be without a schedule, to compare with.
type live struct {
	mu      sync.Mutex
	members []member
	current []int
	sum     int
}

func (l *live) pick() *member {
	l.mu.Lock()
	defer l.mu.Unlock()
	best := 0
	for i := range l.members {
		l.current[i] += l.members[i].weight
		if l.current[i] > l.current[best] {
			best = i
		}
	}
	l.current[best] -= l.sum
	return &l.members[best]
}

func BenchmarkPick(b *testing.B) {
	weights := []int{5, 3, 2, 1, 1, 1, 1, 1, 1, 1}
	for _, balance := range policies {
		s := newSet(b, Options{}, upstreamOf(balance, servers(weights...)...))
		b.Run(balance, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for key := uint64(1); pb.Next(); key++ {
					if s.Pick(key, nil) == nil {
						b.Error("no backend")
					}
				}
			})
		})
	}
	l := &live{members: members(weights...), current: make([]int, len(weights)), sum: 17}
	b.Run("round_robin_with_lock", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if l.pick() == nil {
					b.Error("no backend")
				}
			}
		})
	})
}

// TestRetriesTakeNoTurn has one of two backends dead, as balancers see it: each
// request that begins there is retried at once. Half of the requests must begin at
// the sound one all the same.
func TestRetriesTakeNoTurn(t *testing.T) {
	s := newSet(t, Options{Rand: seeded()}, upstreamOf("round_robin", servers(1, 1)...))
	first := map[string]int{}
	for range 100 {
		b := s.Pick(0, nil)
		first[short(b)]++
		if short(b) == "1" {
			var tried Tried
			tried.Add(b)
			if next := s.Pick(0, &tried); short(next) != "2" {
				t.Fatalf("a retry went to %s", short(next))
			}
		}
	}
	if first["1"] != 50 || first["2"] != 50 {
		t.Errorf("requests began at %v, want 50 each", first)
	}
}

// TestPowerOfTwoKeepsShares has backends that are equally fast and idle: each gets the
// share of its weight.
func TestPowerOfTwoKeepsShares(t *testing.T) {
	f := func(weights ...int) {
		t.Helper()
		s := newSet(t, Options{Rand: seeded()}, upstreamOf("p2c", servers(weights...)...))
		got, sum := map[string]int{}, 0
		for _, w := range weights {
			sum += w
		}
		const picks = 8000
		for range picks {
			got[short(s.Pick(0, nil))]++
		}
		for i, w := range weights {
			want := picks * w / sum
			if n := got[fmt.Sprint(i+1)]; n < want*9/10 || n > want*11/10 {
				t.Errorf("weights %v: backend %d got %d of %d, want about %d", weights, i+1, n, picks, want)
			}
		}
	}
	f(1, 1)
	f(4, 1)
	f(5, 2, 1)
}
