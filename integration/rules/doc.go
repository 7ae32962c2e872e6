// Package rules holds what must be true of the repository's source itself: which room may import which, that every
// package says what it is, that no CRI message becomes state. Its tests read the source and need neither root nor a build.
package rules
