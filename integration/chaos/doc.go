// Package chaos kills the daemon again and again, at any moment, under the work of a busy node, and checks that no pod
// notices: see TestNoPodNoticesTheDaemonsDeaths. It runs as long as CRI_POUCH_CHAOS says: make chaos.
package chaos
