package cri

import (
	"path"
	"slices"
	"strings"
)

// checkPath refuses what no path can be: too long, or with control characters.
func checkPath(field, p string) error { return checkText(field, p, maxPath) }

// hostPath gives an absolute path of the node, cleaned.
func hostPath(field, p string) (string, error) {
	if p == "" {
		return "", invalid(field, "is missing")
	}
	if err := checkPath(field, p); err != nil {
		return "", err
	}
	if !path.IsAbs(p) {
		return "", invalid(field, "%q is not an absolute path", p)
	}
	return path.Clean(p), nil
}

// containerPath gives the absolute path of a place below the container's root: a relative path counts from "/".
func containerPath(field, p string) (string, error) {
	if p == "" {
		return "", invalid(field, "is missing")
	}
	if err := checkPath(field, p); err != nil {
		return "", err
	}
	p = path.Join("/", p)
	if p == "/" {
		return "", invalid(field, "is the container's root, name a path below it")
	}
	return p, nil
}

// containerPaths checks paths that are given to the OCI specification as they are (masked and read-only paths).
func containerPaths(field string, ps []string) ([]string, error) {
	if err := checkCount(field, len(ps)); err != nil {
		return nil, err
	}
	for _, p := range ps {
		if err := checkPath(field, p); err != nil {
			return nil, err
		}
		if !path.IsAbs(p) {
			return nil, invalid(field, "%q is not an absolute path", p)
		}
	}
	return slices.Clone(ps), nil
}

// logPathIn checks ContainerConfig.log_path: it stays in the sandbox's log directory.
func logPathIn(field, p string) (string, error) {
	if p == "" {
		return "", nil
	}
	if err := checkPath(field, p); err != nil {
		return "", err
	}
	if path.IsAbs(p) {
		return "", invalid(field, "%q is absolute, give a path relative to the sandbox's log_directory", p)
	}
	if slices.Contains(strings.Split(p, "/"), "..") {
		return "", invalid(field, "%q leaves the sandbox's log_directory", p)
	}
	if p = path.Clean(p); p == "." {
		return "", invalid(field, "is the sandbox's log_directory itself")
	}
	return p, nil
}

// checkCgroupParent accepts a path of the cgroup tree, or a slice's name.
func checkCgroupParent(field, p string) error {
	if err := checkPath(field, p); err != nil {
		return err
	}
	if strings.Contains(p, ":") || slices.Contains(strings.Split(p, "/"), "..") {
		return invalid(field, "%q has a ':' or a '..'", p)
	}
	return nil
}

// checkHostname accepts what sethostname(2) and /etc/hosts can hold: at most 64 bytes.
func checkHostname(field, h string) error {
	if h == "" {
		return nil
	}
	if len(h) > 64 {
		return invalid(field, "%q has %d bytes, at most 64 are allowed", h, len(h))
	}
	if err := checkName(field, h); err != nil {
		return err
	}
	for _, part := range strings.Split(h, ".") {
		if part == "" || len(part) > 63 || part[0] == '-' || part[len(part)-1] == '-' {
			return invalid(field, "%q is not a host name", h)
		}
	}
	return nil
}
