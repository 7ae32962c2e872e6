package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/comparison"
	"github.com/cri-pouch/cri-pouch/integration/stage"
)

// fact is something to see of the pod: inside the container, from outside, or in the daemon's answers.
type fact struct {
	what    string
	changes bool // whether a replacement changes it
	look    func(context.Context) (string, error)
	want    string // what it must say; empty: anything but nothing
}

// facts gives what there is to see in the example's mode.
func (s *show) facts() []fact {
	facts := []fact{
		{"sandbox ID", false, func(context.Context) (string, error) { return comparison.Short(s.podID), nil }, ""},
		{"IP of the pod", false, s.address, ""},
		{"container ID", true, func(context.Context) (string, error) { return comparison.Short(s.web), nil }, ""},
		{"page served by nginx", true, func(context.Context) (string, error) { return s.get("/") }, ""},
		{"pid 1", false, s.inside("cat", "/proc/1/comm"), map[string]string{"systemd": "systemd", "sbin-init": "init", "dumb-init": "dumb-init"}[s.mode]},
	}
	line := fmt.Sprintf("line-%d", s.attempt+1)
	services := []fact{
		{"cron's job: /report.txt", false, s.report, "report of corner shop"},
		// What cron's job logged may have been too early: as on a machine, nothing listens before rsyslog is up.
		{"rsyslog: logger's line in syslog", true, s.inside("sh", "-c", "logger -t quickstart "+line+"; sed -n 's/.* quickstart.*: //p' /var/log/syslog | tail -n 1"), line},
		{"ssh ops@" + s.ip, false, s.ssh("echo $USER of $SHOP_NAME"), "ops of corner shop"},
		{"sshd's host key", false, s.hostKey, ""},
		{"first line of syslog, by its time", false, s.inside("sh", "-c", "head -n 1 /var/log/syslog | cut -c1-32"), ""},
		{"/home/ops/note", false, s.ssh("test -e note || date -u '+written at %T.%N' >note; cat note"), ""},
		{"what the shop told the directory", true, s.directory, ""},
	}
	switch s.mode {
	case "systemd":
		facts = append(facts, fact{"systemctl is-system-running", false, s.inside("systemctl", "is-system-running", "--wait"), "running"},
			fact{"cron, rsyslog, ssh, register", false, s.inside("sh", "-c", "echo $(systemctl is-active cron rsyslog ssh register)"), "active active active active"})
		facts = append(facts, services...)
	case "sbin-init":
		facts = append(facts, fact{"runlevel", false, s.inside("runlevel"), "N 2"},
			fact{"cron, rsyslog, ssh", false, s.inside("sh", "-c", "echo $(for s in cron rsyslog ssh; do service $s status | sed 's/.* is //;s/[.]//'; done)"), "running running running"})
		facts = append(facts, services...)
	case "dumb-init":
		facts = append(facts, fact{"report of an orphan", false, s.report, "report of corner shop"},
			fact{"zombies", false, s.inside("sh", "-c", "grep -c '^State:.Z' /proc/[0-9]*/status | grep -vc ':0$'; true"), "0"})
	}
	return facts
}

// look waits for each fact and gives the rows of the table.
func (s *show) look(ctx context.Context) (rows []comparison.Row, err error) {
	for _, f := range s.facts() {
		value, err := f.await(ctx)
		if err != nil {
			return nil, err
		}
		row := comparison.Kept
		if f.changes {
			row = comparison.Changed
		}
		rows = append(rows, row(f.what, value))
	}
	return rows, nil
}

// await looks until the fact says what it must: services come up beside the application, at their own time.
func (f fact) await(ctx context.Context) (value string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if value, err = f.look(ctx); err == nil && value != "" && (f.want == "" || value == f.want) {
			return value, nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return "", fmt.Errorf("%s is %q, wanted %q: %w", f.what, value, f.want, errors.Join(err, ctx.Err()))
		}
	}
}

// printServices shows what the node's administrator sees of the inside.
func (s *show) printServices(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, s.lab.Binary, "ps", "--units", s.spec.Name)
	cmd.Env = append(os.Environ(), "CRI_POUCH_SOCKET="+s.lab.Socket())
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("cri-pouch ps --units: %w: %s", err, out)
	}
	stage.Step("cri-pouch ps --units %s", s.spec.Name)
	for line := range strings.Lines(string(out)) {
		fmt.Print("      ", line)
	}
	return nil
}

// printTable compares the two looks; its error names each line that is not as it should be.
func (s *show) printTable(before, after []comparison.Row, o outage) error {
	wrong := comparison.Print(before, after, func(width int) string {
		return fmt.Sprintf("%-*s   %.1f s without an answer from nginx (stop, services' shutdown, pull, boot); %.0f ms of it no container ran", width, "outage",
			o.page.Seconds(), float64(o.container.Microseconds())/1000)
	})
	if o.page <= 0 || o.container <= 0 {
		wrong = errors.Join(wrong, fmt.Errorf("outages of %s and %s are no measurement", o.page, o.container))
	}
	fmt.Println()
	return wrong
}

// inside runs a command in the container.
func (s *show) inside(argv ...string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		r, err := s.lab.Daemon.Runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: s.web, Cmd: argv, Timeout: 30})
		if err != nil {
			return "", err
		}
		if r.ExitCode != 0 {
			err = fmt.Errorf("%q exits with %d: %s", argv, r.ExitCode, r.Stderr)
		}
		return strings.TrimSpace(string(r.Stdout)), err
	}
}

func (s *show) address(ctx context.Context) (string, error) {
	pod, err := s.lab.Daemon.Runtime.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: s.podID})
	if err != nil {
		return "", err
	}
	return pod.Status.Network.GetIp(), nil
}

// report is the page that cron's job writes at its start, without the time that it was written at, which must be of this container.
func (s *show) report(ctx context.Context) (string, error) {
	text, err := s.get("/report.txt")
	if err != nil {
		return "", err
	}
	what, at, _ := strings.Cut(text, ", ")
	written, err := time.Parse("2006-01-02 15:04:05", at)
	if err != nil {
		return "", err
	}
	status, err := s.status(ctx, s.web)
	if err != nil {
		return "", err
	}
	if written.Before(time.Unix(0, status.StartedAt).Truncate(time.Second)) {
		return "", errors.New("the job has not run in this container")
	}
	return what, nil
}

// ssh runs a command as the user ops, who logs in from outside of the pod with the key that its ConfigMap names. A host key
// that changes is an error.
func (s *show) ssh(command string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		cmd := exec.CommandContext(ctx, "ssh", "-F", "/dev/null", "-i", s.key, "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=5",
			"-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile="+s.knownHosts(), "ops@"+s.ip, command)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("ssh ops@%s: %w: %s", s.ip, err, stderr.String())
		}
		return strings.TrimSpace(string(out)), err
	}
}

func (s *show) knownHosts() string { return filepath.Join(s.lab.Dir, "known_hosts") }

// hostKey is the fingerprint of the key that sshd showed.
func (s *show) hostKey(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "ssh-keygen", "-l", "-f", s.knownHosts()).Output()
	if err != nil {
		return "", err
	}
	words := strings.Fields(string(out))
	return words[1][:min(len(words[1]), 20)] + "…", nil
}

// directory is what the service with an ExecStop wrote to the pod's volume.
func (s *show) directory(context.Context) (string, error) {
	b, err := os.ReadFile(filepath.Join(s.node.Volume("data"), "directory"))
	return strings.Join(strings.Fields(string(b)), ", "), err
}

// checkShutdown looks for what the services leave when they are shut down in order.
func (s *show) checkShutdown() error {
	if s.mode == "dumb-init" {
		return nil
	}
	told, err := s.directory(context.Background())
	if err != nil {
		return err
	}
	if told != "open, closed, open, closed" {
		return fmt.Errorf("the shop told the directory %q: its service was not shut down in order", told)
	}
	stage.Step("its services were shut down in order: the shop told the directory %q", told)
	return nil
}
