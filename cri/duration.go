package cri

import "time"

// longest is what a greater number of seconds counts as. A time.Duration holds 292 years: a client's own number times a second
// may come out as any time, a negative one too, and further limits are added to it.
const longest = 100 * 365 * 24 * time.Hour

// durationOf returns the time of a client's number of seconds: 0 for a negative one, and at most longest.
func durationOf(n int64) time.Duration {
	return time.Duration(min(max(n, 0), int64(longest/time.Second))) * time.Second
}
