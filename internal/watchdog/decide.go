package watchdog

// What is still growth when it is not smooth, and when traffic explains it.
const (
	// A look may fall below the highest before it by this share of the growth, in percent, as
	// what is explained is counted a moment apart from what is there.
	noisePercent = 12
	// This share of the looks, in percent, must be higher than the one before: a leak goes
	// on, a pool that fills or a reload that opens files is one step.
	risingPercent = 50
	// A rate of traffic that rises by less than this share, in percent, over the looks is steady. What
	// is open explains what steady traffic holds, so growth under it is a leak.
	steadyPercent = 25
)

// point is one look at one thing.
type point struct {
	n       int // not explained
	traffic uint64
	kinds   []Count
}

// growing reports whether the points, oldest first, rise by at least minGrowth, steadily,
// and without traffic that explains it.
func growing(points []point, minGrowth int) bool {
	if len(points) < 2 {
		return false
	}
	first, last := points[0], points[len(points)-1]
	growth := last.n - first.n
	if growth < max(1, minGrowth) {
		return false
	}
	highest, rises := first.n, 0
	for i, p := range points[1:] {
		if p.n < highest-growth*noisePercent/100 {
			return false
		}
		if p.n > points[i].n {
			rises++
		}
		highest = max(highest, p.n)
	}
	return rises*100 >= (len(points)-1)*risingPercent && !explained(points, growth)
}

// explained reports whether traffic was so much more in the second half of the points
// that its requests are as many as what grew.
func explained(points []point, growth int) bool {
	last := len(points) - 1
	mid := last / 2
	if mid == 0 {
		return points[last].traffic-points[0].traffic >= uint64(growth)
	}
	before := float64(points[mid].traffic-points[0].traffic) / float64(mid)
	after := float64(points[last].traffic-points[mid].traffic) / float64(last-mid)
	more := after - before*(100+steadyPercent)/100
	return more*float64(last-mid) >= float64(growth)
}

// step is what a look at a track comes to.
type step uint8

const (
	quiet   step = iota // nothing
	suspect             // it grew for half the looks: a good time to remember who is there
	leaking             // an episode begins
	goingOn             // an episode goes on
	cleared             // an episode ends
)

// track decides about descriptors or about goroutines.
type track struct {
	points []point // the last looks+1, oldest first

	// The rest is about the episode that goes on, if any.
	episode   bool
	first     point
	highest   int
	sinceHigh int // looks
}

// look takes one more point.
func (t *track) look(p point, o *Options) step {
	if t.episode {
		return t.follow(p, o)
	}
	t.points = append(t.points, p)
	if extra := len(t.points) - (o.Looks + 1); extra > 0 {
		t.points = append(t.points[:0], t.points[extra:]...)
	}
	if len(t.points) == o.Looks+1 && growing(t.points, o.MinGrowth) {
		t.episode, t.first, t.highest, t.sinceHigh = true, t.points[0], p.n, 0
		t.points = nil
		return leaking
	}
	half := o.Looks / 2
	if len(t.points) > half && growing(t.points[len(t.points)-half-1:], o.MinGrowth*half/o.Looks) {
		return suspect
	}
	return quiet
}

// follow ends the episode when half of the growth is gone, or when it has stopped for as
// many looks as it took to notice it.
func (t *track) follow(p point, o *Options) step {
	t.sinceHigh++
	if p.n > t.highest {
		t.highest, t.sinceHigh = p.n, 0
	}
	if p.n-t.first.n <= (t.highest-t.first.n)/2 || t.sinceHigh >= o.Looks {
		*t = track{}
		return cleared
	}
	return goingOn
}

// other is the kind of descriptors that belong to no kind of the sample.
const other = "other"

// descriptors is what a sample says of them.
func descriptors(s *Sample) point {
	kinds := make([]Count, 0, len(s.ByKind)+1)
	rest := s.FDs
	for _, c := range s.ByKind {
		kinds = append(kinds, c)
		rest -= c.N
	}
	return point{n: s.FDs - s.Open, traffic: s.Traffic, kinds: append(kinds, Count{other, rest})}
}

func goroutines(s *Sample) point {
	return point{n: s.Goroutines - s.Busy, traffic: s.Traffic}
}

// mostGrown returns the name whose count rose most from one list to the other, and by how much. Among
// equals the last one wins, which is "other" among kinds.
func mostGrown(before, after []Count) (name string, growth int) {
	was := make(map[string]int, len(before))
	for _, c := range before {
		was[c.Name] += c.N
	}
	for _, c := range after {
		if g := c.N - was[c.Name]; name == "" || g >= growth {
			name, growth = c.Name, g
		}
	}
	return name, growth
}
