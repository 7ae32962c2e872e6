package cri

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/cri/spec"
	"github.com/cri-pouch/cri-pouch/internal/atomicfile"
	"github.com/cri-pouch/cri-pouch/internal/mountpoint"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
	"github.com/cri-pouch/cri-pouch/richcontainer"
	"github.com/cri-pouch/cri-pouch/snapshot"
)

// appFile is the file in a rich container's bundle that has the application's process (OCI process), where the specification
// has the init's.
const appFile = "process.json"

// chooseRich decides which init the container has.
func (s *Service) chooseRich(sb model.Sandbox, cfg model.ContainerConfig, img snapshot.Image) (richcontainer.Choice, error) {
	env := slices.Clone(img.Config.Config.Env)
	for _, e := range cfg.Envs {
		env = append(env, e.Key+"="+string(e.Value))
	}
	c, err := s.Rich.Choose(richcontainer.Source{
		Container: cfg.Name, Annotations: cfg.RichAnnotations, Handler: sb.Config.RuntimeHandler, Labels: img.Config.Config.Labels, Env: env,
		Joins: cfg.Security.Namespaces.PID == model.ModeTarget,
	})
	if err != nil {
		return c, fmt.Errorf("container %q: %w", cfg.Name, err)
	}
	return c, nil
}

func richRecord(c richcontainer.Choice) *model.Rich {
	if !c.Rich() {
		return nil
	}
	return &model.Rich{Mode: string(c.Mode), By: c.By}
}

// enrich makes of a plain container's specification a rich one's, where that was chosen.
func (s *Service) enrich(sb model.Sandbox, rec model.Container, rootfs string, choice richcontainer.Choice, out *spec.Output) error {
	if !choice.Rich() {
		return nil
	}
	bundle := s.bundleDir(rec.ID)
	r := richcontainer.Request{
		Choice: choice, Container: rec.Config.Name, Namespace: sb.Config.Namespace, Handler: sb.Config.RuntimeHandler, PodUID: sb.Config.UID,
		Bundle: bundle, Rootfs: rootfs, Spec: out.Spec, Stdin: rec.Config.Stdin, StopSignal: out.StopSignal,
	}
	if u := sb.Config.Namespaces.User; u != nil {
		for _, m := range u.UIDs {
			r.UIDs = append(r.UIDs, richcontainer.IDMapping{ContainerID: m.ContainerID, HostID: m.HostID, Length: m.Length})
		}
		for _, m := range u.GIDs {
			r.GIDs = append(r.GIDs, richcontainer.IDMapping{ContainerID: m.ContainerID, HostID: m.HostID, Length: m.Length})
		}
	}
	if choice.Mode != richcontainer.DumbInit { // which shares nothing
		if err := makeRichFolder(bundle); err != nil {
			return err
		}
	}
	prepared, err := s.Rich.Prepare(r)
	if err != nil {
		return fmt.Errorf("container %q: %w", rec.Config.Name, err)
	}
	out.StopSignal = prepared.StopSignal
	return s.writeApp(bundle, prepared.Process)
}

// Bounds of the folder that a container with a real init shares with its shim: root inside may write to the record there. Most
// of the room is for units and the command, which have bounds of their own.
const (
	richFolderBytes = 32 << 20
	richFolderFiles = 16 << 10
)

func makeRichFolder(bundle string) error {
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		return fmt.Errorf("make bundle: %w", err)
	}
	if err := mountpoint.Tmpfs(filepath.Join(bundle, richrun.Dir), richFolderBytes, richFolderFiles, 0o755); err != nil {
		return fmt.Errorf("make folder of a rich container: %w", err)
	}
	return nil
}

// writeApp keeps the application's process for exec, which is to have its environment and user.
func (s *Service) writeApp(bundle string, p *specs.Process) error {
	b, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode the application's process: %w", err)
	}
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		return fmt.Errorf("make bundle: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(bundle, appFile), b); err != nil {
		return fmt.Errorf("write the application's process: %w", err)
	}
	return nil
}

// appSpec gives a container's specification with the process of the application: in a rich container it is not pid 1's.
func (s *Service) appSpec(id string) (*specs.Spec, error) {
	sp, err := s.readSpec(id)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(s.bundleDir(id), appFile))
	if errors.Is(err, fs.ErrNotExist) {
		return sp, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the application's process of container %s: %w", id, err)
	}
	p := &specs.Process{}
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("decode the application's process of container %s: %w", id, err)
	}
	sp.Process = p
	return sp, nil
}

// appSignal gives the stop signal for the application of a container.
func appSignal(rich *model.Rich, asked string) string {
	if rich == nil {
		return asked
	}
	return richcontainer.Mode(rich.Mode).SignalFor(asked)
}

// richInfo is what a verbose status says of a rich container: who chose the mode, and what its launcher has done.
func (s *Service) richInfo(rec model.Container) map[string]any {
	info := map[string]any{"mode": rec.Rich.Mode, "by": rec.Rich.By}
	record, err := richrun.ReadRecord(s.bundleDir(rec.ID))
	if err != nil {
		return info // a mode without a launcher, or a boot ago
	}
	info["starts"], info["restarts"], info["runs"] = record.Starts, max(record.Starts-1, 0), record.Runs
	info["done"], info["failedUnits"] = record.Done, record.Units
	if record.Done {
		info["exitCode"] = record.Code
	}
	if p, err := richrun.ReadProgress(s.bundleDir(rec.ID)); err == nil && p.Because != "" {
		info["endsBecauseOf"] = p.Because
	}
	return info
}

// richEnd says in words how the application of a rich container ended, where the exit code alone does not; empty for others.
func (s *Service) richEnd(rec model.Container) string {
	if rec.Rich == nil {
		return ""
	}
	bundle := s.bundleDir(rec.ID)
	record, err := richrun.ReadRecord(bundle)
	if err != nil {
		return ""
	}
	var said []string
	if plan, err := richrun.ReadPlan(bundle); err == nil {
		for _, u := range record.Units[:record.UnitsFirst] {
			if slices.Contains(plan.WatchUnits, u) {
				said = append(said, fmt.Sprintf("the watched unit %s has failed", u))
			}
		}
	}
	if p, err := richrun.ReadProgress(bundle); err == nil && p.Because == richrun.LauncherLost {
		said = append(said, "somebody inside has killed the launcher that ran the application")
	}
	if n := len(record.Runs); n > 0 && record.Runs[n-1].Failed != "" {
		said = append(said, s.notStarted(rec.ID, record.Runs[n-1]))
	}
	if record.Starts > 1 {
		said = append(said, fmt.Sprintf("the application was restarted inside %d times", record.Starts-1))
	}
	return strings.Join(said, "; ")
}

// notStarted says why a run of a rich container's application did not begin, with what it was about where that tells more.
func (s *Service) notStarted(id string, run richrun.Run) string {
	what := "the application"
	if sp, err := s.appSpec(id); err == nil && sp.Process != nil && len(sp.Process.Args) > 0 {
		what = fmt.Sprintf("the application %.200q", sp.Process.Args[0])
		if run.Failed == "folder" {
			what += fmt.Sprintf(" in the working directory %.200q", sp.Process.Cwd)
		}
	}
	return fmt.Sprintf("%s could not be started, step %s: %s", what, run.Failed, syscall.Errno(run.Errno))
}
