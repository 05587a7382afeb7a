package watchdog

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestFDGroup(t *testing.T) {
	f := func(link, group string, inode uint64) {
		t.Helper()
		got := fd{3, link}
		if got.group() != group || got.inode() != inode {
			t.Errorf("%q: group %q, inode %d; want %q, %d", link, got.group(), got.inode(), group, inode)
		}
	}
	f("socket:[4711]", "socket", 4711)
	f("pipe:[12]", "pipe", 12)
	f("anon_inode:[eventpoll]", "anon_inode:eventpoll", 0)
	f("anon_inode:[eventfd:12]", "anon_inode:eventfd:12", 0)
	f("anon_inode:inotify", "anon_inode:inotify", 0)
	f("/var/log/access.log", "/var/log/access.log", 0)
	f("/tmp/odd:[1]", "/tmp/odd:[1]", 1)
	f("", "", 0)
}

// fdList makes descriptors from 3 on.
func fdList(links ...string) []fd {
	var out []fd
	for i, link := range links {
		out = append(out, fd{3 + i, link})
	}
	return out
}

func TestNewFDs(t *testing.T) {
	f := func(before, after []fd, detail string, oldest ...string) {
		t.Helper()
		gotDetail, gotOldest := newFDs(before, after)
		if gotDetail != detail || !slices.Equal(gotOldest, oldest) {
			t.Errorf("%v to %v: %q %q, want %q %q", before, after, gotDetail, gotOldest, detail, oldest)
		}
	}
	base := fdList("/dev/null", "socket:[5]")
	f(base, base, "")
	f(base, fdList("/dev/null"), "")
	f(base, fdList("/dev/null", "socket:[5]", "pipe:[9]", "pipe:[8]", "socket:[7]"), "2 pipe, 1 socket", "fd 6 pipe:[8]", "fd 5 pipe:[9]")
	// A number that was closed and opened again is another descriptor.
	f(base, fdList("/dev/null", "socket:[6]", "socket:[4]"), "1 socket", "fd 5 socket:[4]", "fd 4 socket:[6]")
	f(nil, base, "1 /dev/null, 1 socket", "fd 3 /dev/null")
	var many []string
	for i := range 9 {
		many = append(many, fmt.Sprintf("pipe:[%d]", 100-i))
	}
	f(nil, fdList(many...), "9 pipe", "fd 11 pipe:[92]", "fd 10 pipe:[93]", "fd 9 pipe:[94]", "fd 8 pipe:[95]", "fd 7 pipe:[96]")
}

func TestParseStacks(t *testing.T) {
	got := parseStacks(`goroutine profile: total 5
3 @ 0x47c1ee 0x4101c8 0x482001
#	0x49b1c4	main.wait+0x24			/src/main.go:10
#	0x49b1e4	main.(*Server).run[...]+0x4	/src/main.go:20

1 @ 0x43e1d4 0x46b701
# labels: {"a":"b"}
#	0x43e1d4	sync.(*WaitGroup).Go.func1+0x1	/go/sync.go:1

1 @ 0x1
`)
	want := []stack{
		{3, []string{"main.wait", "main.(*Server).run[...]"}},
		{1, []string{"sync.(*WaitGroup).Go.func1"}},
		{1, nil},
	}
	if len(got) != len(want) {
		t.Fatalf("%+v, want %+v", got, want)
	}
	for i := range want {
		if got[i].n != want[i].n || !slices.Equal(got[i].frames, want[i].frames) {
			t.Errorf("%+v, want %+v", got[i], want[i])
		}
	}
	if got := parseStacks("#\t0x1\tmain.f+0x1\nx @ y\n# short\n"); len(got) != 1 || got[0].n != 0 {
		t.Errorf("garbled: %+v", got)
	}
}

func TestStarter(t *testing.T) {
	f := func(want string, frames ...string) {
		t.Helper()
		if got := (&stack{1, frames}).starter(); got != want {
			t.Errorf("%q: %q, want %q", frames, got, want)
		}
	}
	f("main.f", "main.f")
	f("main.New.func1", "runtime.gopark", "main.(*T).wait", "main.New.func1")
	f("main.New.func1", "main.New.func1", "sync.(*WaitGroup).Go.func1")
	f("net/http.(*Server).Serve", "internal/poll.(*FD).Accept", "net/http.(*Server).Serve")
	f("runtime.main", "runtime.gopark", "runtime.main")
	f("unknown")
}

func TestNewStacks(t *testing.T) {
	f := func(before, after []stack, which, detail string, places ...string) {
		t.Helper()
		gotWhich, gotDetail, gotPlaces := newStacks(before, after)
		if gotWhich != which || gotDetail != detail || !slices.Equal(gotPlaces, places) {
			t.Errorf("%q %q %q, want %q %q %q", gotWhich, gotDetail, gotPlaces, which, detail, places)
		}
	}
	workers := stack{4000, []string{"net.Read", "main.worker"}}
	f([]stack{workers}, []stack{workers}, "unknown", "")
	// What grew is named, not what is most frequent.
	f([]stack{workers}, []stack{workers, {90, []string{"a.wait", "a.run"}}, {10, []string{"a.send", "a.run"}}, {5, []string{"b.run"}}},
		"a.run", "100 a.run, 5 b.run", "90 at a.wait < a.run", "10 at a.send < a.run")
	// Without a profile to compare with, that is all there is.
	f(nil, []stack{workers, {9, []string{"a.run"}}}, "main.worker", "4000 main.worker, 9 a.run", "4000 at net.Read < main.worker")
	f(nil, []stack{{1, strings.Split("a b c d e f", " ")}}, "f", "1 f", "1 at a < b < c < d")
	f(nil, nil, "unknown", "")
}
