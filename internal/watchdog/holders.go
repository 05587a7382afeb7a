package watchdog

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxOldest is how many holders a verdict lists.
	maxOldest = 5
	// maxFrames is how many frames describe where a goroutine stands.
	maxFrames = 4
)

// fd is one descriptor and what it leads to, such as "socket:[4711]" or a path.
type fd struct {
	n    int
	link string
}

// group is the link without what tells one from the next.
func (f fd) group() string {
	kind, rest, ok := strings.Cut(f.link, ":[")
	switch {
	case strings.HasPrefix(f.link, "/"):
		return f.link
	case kind == "anon_inode" && ok:
		return kind + ":" + strings.TrimSuffix(rest, "]") // the brackets hold what it is
	}
	return kind
}

// inode is the number in the link, 0 if there is none. The kernel counts up, so a lower number
// is an older socket or pipe.
func (f fd) inode() uint64 {
	_, rest, _ := strings.Cut(f.link, ":[")
	n, _ := strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 64) // 0 on errors
	return n
}

func (f fd) String() string { return fmt.Sprintf("fd %d %s", f.n, f.link) }

// newFDs says what grew from one list of descriptors to the other, by group, and the oldest
// of those that came in between and belong to the group that grew most.
func newFDs(before, after []fd) (detail string, oldest []string) {
	was := make(map[fd]bool, len(before))
	grown := map[string]int{}
	for _, f := range before {
		was[f] = true
		grown[f.group()]--
	}
	var fresh []fd
	for _, f := range after {
		grown[f.group()]++
		if !was[f] {
			fresh = append(fresh, f)
		}
	}
	groups := risen(grown)
	if len(groups) == 0 {
		return "", nil
	}
	fresh = slices.DeleteFunc(fresh, func(f fd) bool { return f.group() != groups[0].Name })
	slices.SortFunc(fresh, func(a, b fd) int {
		return cmp.Or(cmp.Compare(a.inode(), b.inode()), cmp.Compare(a.n, b.n))
	})
	for _, f := range fresh[:min(len(fresh), maxOldest)] {
		oldest = append(oldest, f.String())
	}
	return list(groups), oldest
}

// risen returns what rose, the most first.
func risen(grown map[string]int) []Count {
	var out []Count
	for name, n := range grown {
		if n > 0 {
			out = append(out, Count{name, n})
		}
	}
	slices.SortFunc(out, func(a, b Count) int {
		return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// list writes the first of the counts.
func list(counts []Count) string {
	var parts []string
	for _, c := range counts[:min(len(counts), maxOldest)] {
		parts = append(parts, fmt.Sprintf("%d %s", c.N, c.Name))
	}
	return strings.Join(parts, ", ")
}

// stack is goroutines that stand at the same place.
type stack struct {
	n      int
	frames []string // functions, the innermost first
}

// stacks returns all goroutines. The profile stops the world for a moment only, unlike
// a full trace, which would also tell ages.
func stacks() []stack {
	var buf bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&buf, 1); err != nil {
		return nil // a bytes.Buffer does not fail
	}
	return parseStacks(buf.String())
}

// parseStacks reads the text form of a goroutine profile (runtime/pprof, debug=1): a line
// "3 @ 0x45 0x46", then lines "#\t0x45\tpkg.function+0x1f\tfile:line".
func parseStacks(text string) []stack {
	var out []stack
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case len(fields) >= 2 && fields[1] == "@":
			n, err := strconv.Atoi(fields[0])
			if err != nil {
				n = 0
			}
			out = append(out, stack{n: n})
		case len(fields) >= 3 && fields[0] == "#" && strings.HasPrefix(fields[1], "0x") && len(out) > 0:
			name := fields[2]
			if i := strings.LastIndexByte(name, '+'); i > 0 {
				name = name[:i]
			}
			last := &out[len(out)-1]
			last.frames = append(last.frames, name)
		}
	}
	return out
}

// starters are packages that start goroutines for others.
var starters = []string{"runtime.", "sync.", "internal/", "golang.org/x/sync/"}

// starter is the function that the goroutine was started with. It names who
// started it, too: a function literal is called after the function around it.
func (s *stack) starter() string {
	for _, frame := range slices.Backward(s.frames) {
		if !slices.ContainsFunc(starters, func(prefix string) bool { return strings.HasPrefix(frame, prefix) }) {
			return frame
		}
	}
	if len(s.frames) == 0 {
		return "unknown"
	}
	return s.frames[len(s.frames)-1]
}

// newStacks says which starter's goroutines grew most from one profile to the other, what else
// grew, and where those of that starter stand.
func newStacks(before, after []stack) (which, detail string, places []string) {
	grown := map[string]int{}
	for i := range before {
		grown[before[i].starter()] -= before[i].n
	}
	for i := range after {
		grown[after[i].starter()] += after[i].n
	}
	groups := risen(grown)
	if len(groups) == 0 {
		return "unknown", "", nil
	}
	which = groups[0].Name
	at := map[string]int{}
	for i := range after {
		if s := &after[i]; s.starter() == which {
			at[strings.Join(s.frames[:min(len(s.frames), maxFrames)], " < ")] += s.n
		}
	}
	order := slices.SortedFunc(maps.Keys(at), func(a, b string) int {
		return cmp.Or(cmp.Compare(at[b], at[a]), cmp.Compare(a, b))
	})
	for _, place := range order[:min(len(order), maxOldest)] {
		places = append(places, fmt.Sprintf("%d at %s", at[place], place))
	}
	return which, list(groups), places
}
