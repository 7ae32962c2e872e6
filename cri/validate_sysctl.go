package cri

import (
	"slices"
	"strings"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// checkSysctls accepts sysctls that belong to a namespace of the pod. A sysctl of the node, or a value that carries a
// second setting (CVE-2022-0811), is refused.
func checkSysctls(field string, m map[string]string, ns model.Namespaces) error {
	if err := checkCount(field, len(m)); err != nil {
		return err
	}
	for name, value := range m {
		dotted, ok := sysctlName(name)
		if !ok {
			return invalid(field, "%q is not a sysctl's name", name)
		}
		if value == "" || len(value) > maxLabelValue || strings.ContainsFunc(value, notInSysctl) {
			return invalid(field, "value %q of %s is empty or has other characters than letters, digits, blanks, tabs and '-_.,:/@'", value, name)
		}
		switch mode, known := sysctlNamespace(dotted, ns); {
		case !known:
			return invalid(field, "%s belongs to no namespace of a pod, set it on the node", name)
		case mode == model.ModeNode:
			return invalid(field, "%s would change the node, as the pod has not its own namespace for it", name)
		}
	}
	return nil
}

// sysctlName gives the name with dots between its parts: the first separator says which character separates
// (sysctl.d(5)); the other one is part of a name, as in net/ipv4/conf/eth0.100/rp_filter.
func sysctlName(s string) (string, bool) {
	if len(s) > maxName {
		return "", false
	}
	if i := strings.IndexAny(s, "./"); i >= 0 && s[i] == '/' {
		s = strings.Map(func(r rune) rune {
			switch r {
			case '/':
				return '.'
			case '.':
				return '/'
			}
			return r
		}, s)
	}
	parts := strings.Split(s, ".")
	return s, len(parts) > 1 && !slices.ContainsFunc(parts, func(p string) bool {
		return p == "" || strings.Trim(p, "/") != p || strings.Contains(p, "//") || strings.ContainsFunc(p, func(r rune) bool {
			return r > 0x7e || !alphanumeric(byte(r)) && !strings.ContainsRune("_-/", r)
		})
	})
}

// notInSysctl holds for characters that no namespaced sysctl needs in its value; '+' and '=' separated settings in the
// attack.
func notInSysctl(r rune) bool {
	return r > 0x7e || !alphanumeric(byte(r)) && !strings.ContainsRune(" \t-_.,:/@", r)
}

// sysctlNamespace says in which namespace a sysctl lives, by the kernel's documentation (namespaces(7), ipc_namespaces(7)).
func sysctlNamespace(name string, ns model.Namespaces) (model.NamespaceMode, bool) {
	switch {
	case strings.HasPrefix(name, "net."):
		return ns.Network, true
	case name == "kernel.domainname":
		return ns.Network, true // the UTS namespace is the pod's where its network is
	case strings.HasPrefix(name, "fs.mqueue."):
		return ns.IPC, true
	}
	ipc := []string{
		"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni",
		"kernel.shm_rmid_forced", "kernel.auto_msgmni",
	}
	return ns.IPC, slices.Contains(ipc, name)
}
