// Package integration tests cri-pouch from outside, over its CRI socket, against a real kernel, registry and CNI network.
// Its tests need root and the built binaries (make build-tests) and skip themselves, with the reason, where these are
// missing. Every test has a daemon of its own and ends with a leak check.
package integration
