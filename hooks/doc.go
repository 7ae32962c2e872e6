// Package hooks reads and checks what is to be run at points of a container's life: a pod's author declares hooks in
// annotations, the node's administrator in folders of files (oci-hooks(5)). It says what a hook's process looks like, refuses
// what the node's administrator has not allowed, and finds the node's hooks for a container; it runs nothing, and knows
// neither CRI nor the shim.
package hooks
