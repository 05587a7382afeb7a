// Package accesslog writes one line for each request, as JSON, as nginx's "combined"
// format or by a template, without ever making a request wait: lines go to memory, a
// goroutine writes them, and what does not fit is dropped and counted. Lines of different
// processors may be out of order by up to the flush interval.
package accesslog
