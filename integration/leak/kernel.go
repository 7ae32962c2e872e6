package leak

import (
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"
)

// mounts lists mounts by their mount point; a pinned namespace is one of type nsfs.
func (s Scope) mounts(found inventory) error {
	if len(s.MountDirs) == 0 {
		return nil
	}
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	for _, m := range mounts {
		if !slices.ContainsFunc(s.MountDirs, func(dir string) bool { return below(m.Mountpoint, dir) }) {
			continue
		}
		if m.FSType == "nsfs" {
			found.add("pinned namespace", fmt.Sprintf("%s (%s)", m.Mountpoint, m.Root))
		} else {
			found.add("mount", fmt.Sprintf("%s (%s)", m.Mountpoint, m.FSType))
		}
	}
	return nil
}

// foreignCgroup belongs to who runs this machine.
const foreignCgroup = "process_api"

// cgroups lists the folders of all hierarchies.
func (s Scope) cgroups(found inventory) error {
	if s.Cgroup == "" {
		return nil
	}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	for _, m := range mounts {
		err := filepath.WalkDir(m.Mountpoint, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // it went in this moment
			}
			if err != nil || !e.IsDir() || path == m.Mountpoint {
				return err
			}
			if e.Name() == foreignCgroup {
				return fs.SkipDir
			}
			if s.ownCgroup(strings.TrimPrefix(path, m.Mountpoint)) {
				found.add("cgroup", path)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("list cgroups of %s: %w", m.Mountpoint, err)
		}
	}
	return nil
}

func (s Scope) ownCgroup(path string) bool {
	return s.Cgroup == "/" || slices.Contains(strings.Split(path, "/"), s.Cgroup)
}

// links lists network links of this network namespace.
func (s Scope) links(found inventory) error {
	if s.Link == nil {
		return nil
	}
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list network links: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range links {
		if a := l.Attrs(); s.Link(a.Name, names[a.MasterIndex]) {
			found.add("network link", fmt.Sprintf("%s (%s)", a.Name, l.Type()))
		}
	}
	return nil
}

var (
	counters = regexp.MustCompile(`counter packets [0-9]+ bytes [0-9]+ ?`)
	// cniChains are the chains that CNI plugins make for one pod: a hash of network and container ID.
	cniChains = regexp.MustCompile(`^CNI-(DN-)?[0-9a-f]{16,}`)
	// cniBase are the rules that plugins make once for the machine: they lead to chains of all pods, or go by a mark.
	cniBase = regexp.MustCompile(`jump (CNI-HOSTPORT-[A-Z]+|CNI-FORWARD|CNI-ADMIN|hostports|hostip_hostports|hostports_all)$|^meta mark |^type [a-z]+ hook `)
)

// rules lists the firewall rules that CNI plugins made, in nftables, where iptables-nft has its rules too. Chains and
// rules that plugins make once for the machine are left out.
func (s Scope) rules(found inventory) error {
	if s.Rule == nil {
		return nil
	}
	nft, err := exec.LookPath("nft")
	if err != nil {
		return nil // no nftables, and no way to look
	}
	out, err := exec.Command(nft, "-n", "list", "ruleset").Output()
	if err != nil {
		return fmt.Errorf("list firewall rules with %s: %w", nft, err)
	}
	for _, rule := range cniRules(string(out)) {
		if s.Rule(rule) {
			found.add("firewall rule", rule)
		}
	}
	return nil
}

// cniRules reads nft's listing: tables and chains in braces, a rule a line.
func cniRules(listing string) []string {
	var list []string
	var table, chain string
	for line := range strings.Lines(listing) {
		line = strings.TrimSpace(counters.ReplaceAllString(strings.TrimSpace(line), ""))
		words := strings.Fields(line)
		switch {
		case len(words) > 2 && words[0] == "table":
			table, chain = words[1]+" "+words[2], ""
		case len(words) > 1 && words[0] == "chain":
			if chain = words[1]; cniChains.MatchString(chain) {
				list = append(list, fmt.Sprintf("chain %s in table %s", chain, table))
			}
		case len(words) == 0 || line == "}" || chain == "":
		case (strings.HasPrefix(chain, "CNI-") || strings.Contains(table, "cni") || strings.Contains(line, "CNI-")) && !cniBase.MatchString(line):
			list = append(list, fmt.Sprintf("%q in chain %s of table %s", line, chain, table))
		}
	}
	return list
}
