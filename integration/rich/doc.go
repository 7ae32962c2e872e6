// Package rich tests rich containers from outside: images with real inits, made from Debian's packages by
// integration/scripts/rich-images.sh, run over the CRI socket of a daemon of their own. Each test says in its name what must
// hold.
package rich
