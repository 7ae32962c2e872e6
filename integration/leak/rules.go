package leak

import (
	"fmt"
	"os/exec"
	"regexp"
	"strings"
)

// rules lists the firewall rules that CNI plugins made, by iptables and by nftables. Chains and rules that plugins make
// once for the machine are left out. A tool that is not installed has made none.
func (s Scope) rules(found inventory) error {
	if s.Rule == nil {
		return nil
	}
	for _, look := range []struct {
		command []string
		read    func(string) []string
	}{
		{[]string{"iptables-save"}, iptablesRules},
		{[]string{"ip6tables-save"}, iptablesRules},
		{[]string{"nft", "-n", "list", "ruleset"}, nftRules},
	} {
		tool, err := exec.LookPath(look.command[0])
		if err != nil {
			continue
		}
		out, err := exec.Command(tool, look.command[1:]...).Output()
		if err != nil {
			return fmt.Errorf("list firewall rules with %s: %w", tool, err)
		}
		for _, rule := range look.read(string(out)) {
			if s.Rule(rule) {
				found.add("firewall rule", rule)
			}
		}
	}
	return nil
}

var (
	// podChains are the chains that CNI plugins make for one pod: a hash of network and container ID.
	podChains = regexp.MustCompile(`^:(CNI-(?:DN-)?[0-9a-f]{16,})`)
	// iptablesBase and nftBase are the rules that plugins make once for the machine: they lead to chains of all pods, or go
	// by a mark.
	iptablesBase = regexp.MustCompile(`-j (CNI-HOSTPORT-(DNAT|MASQ)|CNI-FORWARD|CNI-ADMIN|MARK --set-xmark \S+)$|^-A CNI-HOSTPORT-MASQ -m mark --mark`)
	nftBase      = regexp.MustCompile(`^jump \S+$|^fib daddr type \S+ jump hostports_all$|^type [a-z]+ hook |^comment |^policy `)
	nftCounters  = regexp.MustCompile(`counter packets [0-9]+ bytes [0-9]+ ?`)
)

// iptablesRules reads the output of iptables-save; the rules name network and container in their comments.
func iptablesRules(listing string) []string {
	var list []string
	table := ""
	for line := range strings.Lines(listing) {
		line = strings.TrimSpace(line)
		if chain := podChains.FindStringSubmatch(line); chain != nil {
			list = append(list, fmt.Sprintf("chain %s in table %s", chain[1], table))
		}
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, "-A") && strings.Contains(line, "CNI-") && !iptablesBase.MatchString(line):
			list = append(list, fmt.Sprintf("%s in table %s", line, table))
		}
	}
	return list
}

// nftRules reads nft's listing (tables and chains in braces, a rule a line) of the tables that are CNI's own. Others
// have what iptables made, which iptables-save tells better.
func nftRules(listing string) []string {
	var list []string
	var table, chain string
	for line := range strings.Lines(listing) {
		line = strings.TrimSpace(nftCounters.ReplaceAllString(strings.TrimSpace(line), ""))
		words := strings.Fields(line)
		switch {
		case len(words) > 2 && words[0] == "table":
			table, chain = words[1]+" "+words[2], ""
		case len(words) > 1 && words[0] == "chain":
			chain = words[1]
		case len(words) == 0 || line == "}" || chain == "" || !strings.Contains(table, "cni") || nftBase.MatchString(line):
		default:
			list = append(list, fmt.Sprintf("%s in chain %s of table %s", line, chain, table))
		}
	}
	return list
}
