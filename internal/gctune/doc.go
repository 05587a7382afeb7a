// Package gctune sets the garbage collector: it keeps collections rare while there is traffic, the
// overhead of a large idle heap small, and gives back what traffic has left behind.
//
// # Headroom
//
// Go's default lets the heap grow to twice what is alive. That is little for a small heap, which is
// collected many times a second, and much for a large idle one, of which half is air. Here the
// heap may grow by what is allocated in 1.5 s, at least by min_headroom, at most by max_headroom or headroom_percent of what
// is alive (headroomFor), set as GOGC after each collection, and lowered while none comes. So a
// busy process collects about once a second, and a quiet one keeps little.
//
// A large heap is dear to collect. Up to headroom_percent it may grow by what is allocated in 100 times the processor
// time of a collection, so that all of them take 1 % of a processor.
//
// BenchmarkIdleHeap: 20 s of garbage at 50 MB/s, beside nothing or beside 20,000 objects as
// heavy as an idle TLS connection (6 KB in seven objects), on 2 cores that others used, too.
//
//	idle    settings            GOGC  PSS mean / peak, MB  collections/s  their CPU, ms/s
//	0       Go's default         100      8.7 /   9.5           16            12
//	0       adaptive            1603     67   /  72              0.9           1.1
//	20,000  Go's default         100    231   / 246              0.5           8.5
//	20,000  adaptive              55    178   / 191              1.2          40
//
// # Limit
//
// memory.limit is GOMEMLIMIT. The runtime collects at the lower of the goals that GOGC and the limit
// give, so GOGC needs no care near the limit, and gets none. Variables that are set in the
// environment, GOGC and GOMEMLIMIT, win over the options; with GOGC set nothing but the limit is left to do here.
//
// # A quiet process
//
// Nobody collects garbage where nobody allocates, but for the runtime itself every two minutes; and what a
// collection frees it keeps up to a tenth more than the heap may grow to. So once a second a Tuner looks at four figures
// (BenchmarkLook: 1.7 us, no allocation). After 3 s of quiet it asks for collections if half a
// megabyte and 5 % of what is alive was allocated, or belonged to the stacks of goroutines that ended, since it last did, or a
// collection of traffic has found that much less alive; at most every 5 s and for 1 % of a processor. It makes two in a row,
// as a sync.Pool drops what it holds in the second one, and a third if that frees much.
//
// Then, and whenever a quiet process has as much free memory, it gives that back
// (squeezeLocked): the heap may grow by no more than half a megabyte for some seconds, which lowers the goal of the
// runtime's scavenger. That one works in the background, at about 1 % of a processor. Traffic that comes
// meanwhile ends it, at the cost of two collections of little use.
//
// Do not use debug.FreeOSMemory here: it returns all at once, and a collection that begins meanwhile waits for
// it with the world stopped, for 130 and 470 ms with 540 MB (/sched/pauses/total/gc:seconds).
//
// BenchmarkRelease: 60,000 of the objects above die; PSS in MB, and the longest pause of all collections:
//
//	                   full   1 s   2 s   4 s   8 s  16 s   pause
//	50 MB/s, adaptive   364   323   168    82    82    82   50 ms
//	idle, adaptive      364   364   364   342    12    12    1 ms
//
// The idle process had one collection after they died, which the runtime makes within two minutes (runtime/proc.go,
// forcegcperiod); Go's default gives nothing back then. Pauses under traffic are mostly waits for a processor.
//
// What stays after traffic, though no connection uses it, belongs to the most connections that were served at once: a goroutine's
// descriptor (480 bytes) and the poller's (296) are never freed, nor are those of the pieces that the heap had (160 bytes for 8 KB).
package gctune
