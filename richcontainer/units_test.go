package richcontainer

import (
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestUnitsThatAnnotationsName(t *testing.T) {
	needRoot(t)
	brought := rootfs(t, map[string]string{"own.service": "[Service]\nExecStart=/bin/x\n", "each@.service": "[Service]\nExecStart=/bin/x\n"})
	for name, tc := range map[string]struct {
		unit  string
		files map[string]string
		mount string
		gone  bool
	}{
		"the image's":                      {unit: "network-online.target"},
		"the administrator's of the image": {unit: "a.service", files: map[string]string{"etc/systemd/system/a.service": "[Service]\n"}},
		"another name of one":              {unit: "sshd.service", files: map[string]string{"etc/systemd/system/sshd.service": "-> /lib/systemd/system/ssh.service", "usr/lib/systemd/system/ssh.service": "[Service]\n"}},
		"an instance":                      {unit: "postgresql@15-main.service", files: map[string]string{"usr/lib/systemd/system/postgresql@.service": "[Service]\n"}},
		"made of a script":                 {unit: "old.service", files: map[string]string{"etc/init.d/old": "#!/bin/sh\n"}},
		"one that the pod brings in":       {unit: "own.service"},
		"an instance of one":               {unit: "each@1.service"},
		"made by systemd without a file":   {unit: "srv-data.mount"},
		"perhaps in what the pod mounts":   {unit: "a.service", mount: "/etc/systemd/system"},
		"misspelled":                       {unit: "ngnix.service", gone: true},
		"an instance of nothing":           {unit: "no@1.service", gone: true},
		"masked in the image":              {unit: "a.service", files: map[string]string{"etc/systemd/system/a.service": "-> /dev/null"}, gone: true},
		"a script is no socket":            {unit: "old.socket", files: map[string]string{"etc/init.d/old": "#!/bin/sh\n"}, gone: true},
		"a link out of the image":          {unit: "a.service", files: map[string]string{"etc/systemd/system/a.service": "-> ../../../../../../../../proc/self/environ"}, gone: true},
	} {
		for _, option := range []string{"after", "watch-units"} {
			t.Run(option+", "+name, func(t *testing.T) {
				r := request(t, Systemd, rootfs(t, debian(tc.files)))
				r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: "/units", Type: "bind", Source: brought})
				if tc.mount != "" {
					r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: tc.mount, Type: "bind", Source: "/x"})
				}
				r.Choice.Options.UnitsFrom = "/units"
				if option == "after" {
					r.Choice.Options.After = []string{tc.unit}
				} else {
					r.Choice.Options.WatchUnits = []string{tc.unit}
				}
				_, err := v1.Prepare(r)
				if tc.gone {
					wantError(t, err, errdefs.IsInvalidArgument, Prefix+option, tc.unit, "/lib/systemd/system", Prefix+"units-from")
				} else if err != nil {
					t.Error(err)
				}
			})
		}
	}
}
