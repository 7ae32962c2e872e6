package cri

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

// Bounds of what a request may carry. Kubernetes' own bounds fit in all of them; they keep a client's mistake out of the
// metadata database.
const (
	maxName = 253 // bytes of a pod's, container's or namespace's name and of a pod's UID (a DNS subdomain's bound)
	// A Kubernetes label key has at most 317 bytes and its value 63.
	maxLabelKey   = 512
	maxLabelValue = 4096
	// Kubernetes bounds the annotations of a pod to 256 KiB; the kubelet adds its own to those.
	maxLabels  = 320 << 10 // bytes of all keys and values together, for labels and for annotations
	maxPath    = 4095      // PATH_MAX without the final NUL
	maxEntries = 4096      // mounts, devices, ports, groups: entries of one list
	maxArg     = 128 << 10 // MAX_ARG_STRLEN of execve(2), with the final NUL
)

// invalid is the error of a field that a request got wrong.
func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// unsupported is the error of a field that this version refuses.
func unsupported(what, field string) error {
	return fmt.Errorf("%s are not supported yet: %s: %w", what, field, errdefs.ErrNotImplemented)
}

// checkName accepts what may stand in records, file names and CNI arguments: letters, digits, dot, dash, underscore, the
// first one a letter or digit.
func checkName(field, s string) error {
	if s == "" {
		return invalid(field, "is missing")
	}
	if len(s) > maxName {
		return invalid(field, "has %d bytes, at most %d are allowed", len(s), maxName)
	}
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) && (i == 0 || !strings.ContainsRune("._-", rune(c))) {
			return invalid(field, "%q may have letters, digits, '.', '_' and '-' only and begins with a letter or digit", s)
		}
	}
	return nil
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// checkText refuses control characters (NUL and newline among them) and more than limit bytes; empty is fine.
func checkText(field, s string, limit int) error {
	if len(s) > limit {
		return invalid(field, "has %d bytes, at most %d are allowed", len(s), limit)
	}
	if !utf8.ValidString(s) {
		return invalid(field, "is not valid UTF-8")
	}
	for _, r := range s {
		if r < ' ' || r == 0x7f {
			return invalid(field, "%q has a control character", s)
		}
	}
	return nil
}

// checkLabels bounds labels or annotations. Values are kept byte for byte, so that any text is allowed in them.
func checkLabels(field string, m map[string]string, maxValue int) error {
	total := 0
	for k, v := range m {
		if k == "" {
			return invalid(field, "has an empty key")
		}
		if err := checkText(field+" key", k, maxLabelKey); err != nil {
			return err
		}
		if len(v) > maxValue {
			return invalid(field, "the value of %q has %d bytes, at most %d are allowed", k, len(v), maxValue)
		}
		total += len(k) + len(v)
	}
	if total > maxLabels {
		return invalid(field, "have %d bytes in all, at most %d are allowed", total, maxLabels)
	}
	return nil
}

// checkCount bounds a list.
func checkCount(field string, n int) error {
	if n > maxEntries {
		return invalid(field, "has %d entries, at most %d are allowed", n, maxEntries)
	}
	return nil
}
