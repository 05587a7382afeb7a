package ring

import "testing"

// Items come out in the order they went in, however the ring has turned and grown.
func TestOrder(t *testing.T) {
	var r Ring[int]
	in, out := 0, 0
	for round := range 200 {
		for range round {
			r.Push(in)
			in++
		}
		for range round * 2 / 3 {
			if got := r.Pop(); got != out {
				t.Fatalf("round %d: %d came out, want %d", round, got, out)
			}
			out++
		}
		if r.Len() != in-out {
			t.Fatalf("round %d: length %d, want %d", round, r.Len(), in-out)
		}
	}
	r.Trim(0)
	if r.Len() != in-out {
		t.Error("Trim took items")
	}
	for r.Len() > 0 {
		r.Pop()
	}
	r.Trim(len(r.items))
	if r.items == nil {
		t.Error("Trim took memory that may stay")
	}
	r.Trim(len(r.items) - 1)
	if r.items != nil {
		t.Error("Trim left memory")
	}
}

// A ring keeps nothing of what was taken.
func TestForgets(t *testing.T) {
	var r Ring[*int]
	r.Push(new(int))
	r.Pop()
	for i, p := range r.items {
		if p != nil {
			t.Errorf("item %d is still referred to", i)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("Pop of an empty ring does not panic")
		}
	}()
	r.Pop()
}
