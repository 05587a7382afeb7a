// Package ring is a queue that grows to what waits in it and keeps its memory for the next time.
package ring

// Ring is a first-in first-out queue. The zero value is empty. Whoever uses it locks it.
type Ring[T any] struct {
	items []T
	head  int
	n     int
}

// smallest is the room that the first item makes.
const smallest = 64

// Len is the number of items.
func (r *Ring[T]) Len() int { return r.n }

// Cap is the number of items that there is room for.
func (r *Ring[T]) Cap() int { return len(r.items) }

// Push appends an item.
func (r *Ring[T]) Push(v T) {
	if r.n == len(r.items) {
		grown := make([]T, max(smallest, 2*r.n))
		copied := copy(grown, r.items[r.head:])
		copy(grown[copied:], r.items[:r.head])
		r.items, r.head = grown, 0
	}
	r.items[(r.head+r.n)%len(r.items)] = v
	r.n++
}

// Pop takes the first item. The ring must not be empty.
func (r *Ring[T]) Pop() T {
	if r.n == 0 {
		panic("BUG: ring: Pop of an empty ring")
	}
	v := r.items[r.head]
	var none T
	r.items[r.head] = none
	r.head = (r.head + 1) % len(r.items)
	r.n--
	return v
}

// Trim gives the memory of an empty ring back, if it is for more than most items.
func (r *Ring[T]) Trim(most int) {
	if r.n == 0 && len(r.items) > most {
		r.items, r.head = nil, 0
	}
}
