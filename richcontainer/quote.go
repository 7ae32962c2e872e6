package richcontainer

import (
	"regexp"
	"slices"
	"strings"
)

// Variables that belong to the user who logs in, not to the container.
var personal = []string{"HOME", "USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "SHLVL", "TERM", "MAIL", "_", "IFS", "UID", "EUID", "PPID"}

// shellName is what a shell takes as a variable.
var shellName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// shared gives the variables that everybody in the container is to see.
func shared(env []string) (out [][2]string) {
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		if shellName.MatchString(name) && !slices.Contains(personal, name) {
			out = append(out, [2]string{name, value})
		}
	}
	return out
}

// profileScript sets the container's environment in login shells: for /etc/profile.d, which POSIX shells read.
func profileScript(env []string) []byte {
	var b strings.Builder
	b.WriteString("# The container's environment, by cri-pouch.\n")
	for _, v := range shared(env) {
		b.WriteString("export " + v[0] + "=" + shellQuote(v[1]) + "\n")
	}
	return []byte(b.String())
}

// shellQuote makes one word of any text: within single quotes a shell changes nothing.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// pamLineMax is what pam_env takes of a line (BUF_SIZE in its source, of its older versions).
const pamLineMax = 1000

// environmentFile puts the container's environment behind the image's own /etc/environment, which pam_env reads for cron jobs
// and ssh sessions. It knows no way to write a newline, takes quotes at both ends away, and cuts a line at its first '#', also
// within quotes: what it cannot carry exactly is left out.
func environmentFile(own []byte, env []string) []byte {
	var b strings.Builder
	b.Write(own)
	if len(own) > 0 && own[len(own)-1] != '\n' {
		b.WriteByte('\n')
	}
	b.WriteString("# The container's environment, by cri-pouch.\n") // also ends a line that goes on behind a backslash
	for _, v := range shared(env) {
		if line := v[0] + "=" + pamQuote(v[1]); !strings.ContainsAny(v[1], "#\n\r\x00") && len(line) < pamLineMax {
			b.WriteString(line + "\n")
		}
	}
	return []byte(b.String())
}

// pamQuote keeps spaces at the ends, and quotes that are the value's own: only the outermost pair is taken away.
func pamQuote(s string) string {
	if strings.ContainsAny(s, `"`) && !strings.Contains(s, "'") {
		return "'" + s + "'"
	}
	return `"` + s + `"`
}

// unitText makes text safe in a value of a unit file that is shown to people: % and \ mean something there.
func unitText(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
	return strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\\`), "%", "%%")
}

// unitEnvironment writes variables as Environment= lines (systemd.exec(5), systemd.syntax(7)): within double quotes C
// escapes are known, and % begins a specifier.
func unitEnvironment(env []string) string {
	var b strings.Builder
	for _, e := range env {
		b.WriteString(`Environment="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "\n", `\n`, "\t", `\t`, "\r", `\r`).Replace(e) + "\"\n")
	}
	return b.String()
}
