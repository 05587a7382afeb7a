// Package arch holds no code: its tests keep the module's structure as
// docs/architecture.md describes it. They read the source with go/parser and check
// the import arrows, who may touch epoll, package comments, what tests may not do,
// the size of functions, the top-level folders, and that documents name functions
// which exist. A rule is changed here and in the document together.
package arch
