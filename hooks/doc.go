// Package hooks reads and checks what is to be run before a container's program starts and after it has ended. It says what a
// hook's process looks like and refuses what the node's administrator has not allowed; it runs nothing, and knows neither CRI
// nor the shim.
package hooks
