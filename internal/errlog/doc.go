// Package errlog is the error log: zerolog with a level, a form (coloured console
// or JSON) and an output that can be reopened, and a throttle for the events that a
// peer can cause, so that nobody outside can fill the disk.
package errlog
