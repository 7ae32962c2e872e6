// Package annotation reads pod annotations that may be meant for one of the pod's containers.
package annotation

// For gives the value for a container, and the key that it stands under: KEY.CONTAINER goes before KEY. No key: there is
// none.
func For(annotations map[string]string, key, container string) (value, at string) {
	for _, k := range []string{key + "." + container, key} {
		if v, ok := annotations[k]; ok {
			return v, k
		}
	}
	return "", ""
}
