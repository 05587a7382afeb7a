package corpus

import (
	"math/rand/v2"
	"testing"
)

func TestListsAreLargeAndDistinct(t *testing.T) {
	f := func(list string, cases []Case, atLeast int) {
		t.Helper()
		if len(cases) < atLeast {
			t.Errorf("%s has %d cases, want at least %d", list, len(cases), atLeast)
		}
		names, raws := map[string]bool{}, map[string]string{}
		for _, c := range cases {
			if c.Name == "" || names[c.Name] {
				t.Errorf("%s: name %q is empty or used twice", list, c.Name)
			}
			if other, twice := raws[c.Raw]; twice {
				t.Errorf("%s: %q and %q are the same", list, other, c.Name)
			}
			names[c.Name], raws[c.Raw] = true, c.Name
		}
	}
	f("Requests", Requests, 250)
	f("Responses", Responses, 130)
	f("Sound", Sound, 40)
	f("Poison", Poison, 8)
}

func TestMutateIsDeterministicAndChanges(t *testing.T) {
	a, b := rand.New(rand.NewPCG(1, 2)), rand.New(rand.NewPCG(1, 2))
	changed := 0
	for i := range 5000 {
		raw := Sound[i%len(Sound)].Raw
		got := Mutate(a, raw)
		if again := Mutate(b, raw); again != got {
			t.Fatalf("mutation %d differs: %q and %q", i, got, again)
		}
		if got != raw {
			changed++
		}
	}
	if changed < 4500 {
		t.Errorf("%d of 5000 mutations changed anything, want at least 4500", changed)
	}
	if got := Mutate(a, ""); len(got) > 1000 {
		t.Errorf("Mutate(\"\") = %q", got)
	}
}
