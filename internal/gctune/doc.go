// Package gctune sets the garbage collector: it keeps collections rare while memory
// allows, and the overhead of a large idle heap small.
//
// # Headroom
//
// Go's default lets the heap grow to twice what is alive. That is little for a small heap, which is
// collected many times a second, and much for a large idle one, of which half is air. Here the
// heap may grow by max(min_headroom, headroom_percent of what is alive), set as GOGC after each
// collection.
//
// BenchmarkIdleHeap: 20 s of garbage at 50 MB/s, beside nothing or beside 20,000 objects as
// heavy as an idle TLS connection (6 KB in seven objects), on 2 cores that others used, too; two runs.
//
//	idle    settings                GOGC  PSS mean / peak, MB  collections/s  their CPU, ms/s
//	0       Go's default             100      8.7 /   9.2           16           4.5 -  7.7
//	0       32 MiB, 20 % (adaptive)  802     38.6 /  39.2          1.7           0.4 -  0.6
//	20,000  Go's default             100    232   / 246            0.5           1.6 -  4.1
//	20,000  32 MiB, 20 % (adaptive)   28    159   / 160            1.7            14
//	20,000  32 MiB, 50 %              50    182   / 186            0.95          3.3 -  4.4
//
// So 73 MB of 232 are saved for 1.4 % of a processor more, and a small process pays 30 MB for a tenth of the
// collections.
//
// # Limit
//
// memory.limit is GOMEMLIMIT. The runtime collects at the lower of the goals that GOGC and the limit
// give, so GOGC needs no care near the limit, and gets none. Variables that are set in the
// environment, GOGC and GOMEMLIMIT, win over the options.
//
// # Memory that is not needed any more
//
// After a heap has lost most of what was alive, the runtime returns memory by itself: in the background,
// piece by piece, at about 1 % of a processor; but only after a second collection. Traffic brings that one; an idle
// process waits two minutes for each. So after a collection that finds less than half of the
// largest heap alive and at least 64 MiB that could go back, a second one is asked for if none
// comes within 5 s, at most once a minute. The first is due within two minutes, too
// (runtime/proc.go, forcegcperiod).
//
// Do not use debug.FreeOSMemory here: it returns all at once, and a collection that begins meanwhile waits for
// it with the world stopped, for 130 and 470 ms with 540 MB (/sched/pauses/total/gc:seconds).
//
// BenchmarkRelease: 60,000 of the objects above die; PSS in MB, and the longest pause of all collections:
//
//	                          full   1 s   2 s   4 s   8 s  16 s   pause
//	50 MB/s, Go's default      364   365   367   369    23    23   25 ms
//	50 MB/s, adaptive          364   366   359   125    47    47   17 ms
//	idle, Go's default         364   364   364   364   364   364
//	idle, adaptive             364   363   363   363    12    12
//
// Idle counts from the first collection. The machine was loaded, so pauses are mostly waits for a processor.
package gctune
