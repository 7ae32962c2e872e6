//go:build !failpoints

// Package failpoint lets a test end the daemon at a named step. It is compiled in with -tags failpoints only: the
// product carries none of it.
package failpoint

// Enabled says whether this binary was built with failpoints.
const Enabled = false

// Hit does nothing in the product.
func Hit(string) {}
