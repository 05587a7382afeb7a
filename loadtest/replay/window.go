package replay

import (
	"cmp"
	"slices"
)

// maxWindow bounds the memory of the requests in a window.
const maxWindow = 256 << 20

// bucket holds the requests of one second, in the order of the log.
type bucket struct {
	second  int64
	entries []entry
}

// window puts requests in order: a second is given out once the log has come to a
// second that is further on by more than the window, or when memory runs out. It only decides, and
// is owned by one goroutine.
type window struct {
	span  int64 // seconds
	limit int   // bytes

	buckets []bucket // by second; few, as the window is short
	newest  int64    // latest second seen
	past    int64    // seconds before it have been given out
	size    int
	given   int64   // time of the latest request given out
	overdue []entry // late ones, which go next

	late    int64
	crowded int64 // seconds given out early, since memory had run out
}

// floorSecond returns the second that a time is in.
func floorSecond(at int64) int64 {
	if at < 0 {
		return -((-at + 1e9 - 1) / 1e9)
	}
	return at / 1e9
}

// add takes one request in. One of a second that is over goes with those given out last.
func (w *window) add(e entry) {
	second := floorSecond(e.at)
	if second < w.past {
		w.late++
		e.at, e.coarse = w.given, false
		w.overdue = append(w.overdue, e)
		return
	}
	w.newest = max(w.newest, second)
	w.size += e.size
	i, found := slices.BinarySearchFunc(w.buckets, second, func(b bucket, s int64) int { return cmp.Compare(b.second, s) })
	if !found {
		w.buckets = slices.Insert(w.buckets, i, bucket{second: second})
	}
	w.buckets[i].entries = append(w.buckets[i].entries, e)
}

// next returns the requests of the next second that is complete, in order, and nil if none
// is. At the end of the log all are.
func (w *window) next(end bool) []entry {
	if len(w.overdue) > 0 {
		late := w.overdue
		w.overdue = nil
		return late
	}
	if len(w.buckets) == 0 {
		return nil
	}
	first := w.buckets[0]
	complete := end || first.second+w.span < w.newest
	if !complete && w.size <= w.limit {
		return nil
	}
	w.past = first.second + 1
	if !complete {
		w.crowded++
		w.past = first.second // more of it may come, and is no later than the rest
	}
	w.buckets = slices.Delete(w.buckets, 0, 1)
	for i := range first.entries {
		w.size -= first.entries[i].size
	}
	spread(first.entries)
	w.given = first.entries[len(first.entries)-1].at
	return first.entries
}

// spread gives requests of which only the second is known their places, evenly in it, and
// sorts them all. Those of the same time keep the order of the log.
func spread(entries []entry) {
	n, i := int64(0), int64(0)
	for _, e := range entries {
		if e.coarse {
			n++
		}
	}
	for k := range entries {
		if entries[k].coarse {
			entries[k].at += i * 1e9 / n
			i++
		}
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(a.at, b.at) })
}
