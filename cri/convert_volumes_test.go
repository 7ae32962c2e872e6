package cri

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

func TestVolumeAnnotations(t *testing.T) {
	many := make([]string, 250)
	for i := range many {
		many[i] = fmt.Sprintf("/data/%d", i)
	}
	for _, test := range []struct {
		name        string
		annotations map[string]string
		want        []string
		fresh       bool
		mention     string // of the error
	}{
		{"none", nil, nil, false, ""},
		{"a list", map[string]string{persistAnnotation: "/etc/app,/home/admin"}, []string{"/etc/app", "/home/admin"}, false, ""},
		{"spaces and slashes", map[string]string{persistAnnotation: " /etc//app/ ,\t/a/./b\n"}, []string{"/etc/app", "/a/b"}, false, ""},
		{"empty", map[string]string{persistAnnotation: "  "}, nil, false, ""},
		{"one container's instead of the pod's", map[string]string{persistAnnotation: "/a", persistAnnotation + ".app": "/b"}, []string{"/b"}, false, ""},
		{"none for one container", map[string]string{persistAnnotation: "/a", persistAnnotation + ".app": ""}, nil, false, ""},
		{"another container's", map[string]string{persistAnnotation + ".other": "/a", volumesAnnotation + ".other": "fresh"}, nil, false, ""},
		{"keep", map[string]string{volumesAnnotation: "keep", persistAnnotation: "/a"}, []string{"/a"}, false, ""},
		{"fresh", map[string]string{volumesAnnotation: "fresh"}, nil, true, ""},
		{"fresh, but one container", map[string]string{volumesAnnotation: "fresh", volumesAnnotation + ".app": "keep", persistAnnotation + ".app": "/a"}, []string{"/a"}, false, ""},
		{"fresh with an empty list", map[string]string{volumesAnnotation: "fresh", persistAnnotation: ""}, nil, true, ""},
		{"a path like those of the kernel", map[string]string{persistAnnotation: "/process,/system/dev,/device"}, []string{"/process", "/system/dev", "/device"}, false, ""},
		{"dots that are no parent", map[string]string{persistAnnotation: "/a/..b,/...,/c.."}, []string{"/a/..b", "/...", "/c.."}, false, ""},

		{"both", map[string]string{volumesAnnotation: "fresh", persistAnnotation: "/a"}, nil, false, volumesAnnotation + `: "fresh" and ` + persistAnnotation},
		{"both, one of them of the container", map[string]string{volumesAnnotation: "fresh", persistAnnotation + ".app": "/a"}, nil, false, persistAnnotation + ".app"},
		{"another mode", map[string]string{volumesAnnotation: "Fresh"}, nil, false, `"Fresh" is neither keep nor fresh`},
		{"an empty mode", map[string]string{volumesAnnotation: ""}, nil, false, `"" is neither`},
		{"root", map[string]string{persistAnnotation: "/a,/"}, nil, false, `path 2 "/" is the whole root`},
		{"root in disguise", map[string]string{persistAnnotation: "/.//"}, nil, false, "whole root"},
		{"proc", map[string]string{persistAnnotation: "/proc"}, nil, false, `path 1 "/proc" lies in /proc`},
		{"below sys", map[string]string{persistAnnotation: "/a,/b,/sys/fs/cgroup"}, nil, false, `path 3 "/sys/fs/cgroup" lies in /sys`},
		{"dev in disguise", map[string]string{persistAnnotation: "//dev/./shm"}, nil, false, "lies in /dev"},
		{"parent", map[string]string{persistAnnotation: "/a/../b"}, nil, false, `"/a/../b" has a '..'`},
		{"relative", map[string]string{persistAnnotation: "data"}, nil, false, `"data" is not absolute`},
		{"an empty entry", map[string]string{persistAnnotation: "/a,,/b"}, nil, false, "path 2 is empty"},
		{"a comma at the end", map[string]string{persistAnnotation: "/a,"}, nil, false, "path 2 is empty"},
		{"twice", map[string]string{persistAnnotation: "/a,/b,/a/"}, nil, false, `path 3, "/a", stands there twice`},
		{"a newline within", map[string]string{persistAnnotation: "/a\nb"}, nil, false, "control character"},
		{"a NUL", map[string]string{persistAnnotation: "/a\x00b"}, nil, false, "control character"},
		{"no text", map[string]string{persistAnnotation: "/a\xff"}, nil, false, "UTF-8"},
		{"too long", map[string]string{persistAnnotation: "/" + strings.Repeat("a/", 512)}, nil, false, "1025 bytes"},
		{"a name too long", map[string]string{persistAnnotation: "/a/" + strings.Repeat("b", 256)}, nil, false, "255 bytes"},
		{"too many", map[string]string{persistAnnotation: strings.Join(many, ",")}, nil, false, "has 250 paths, at most 64"},
	} {
		c := model.ContainerConfig{Name: "app"}
		err := volumeWishes(test.annotations, &c)
		if test.mention != "" {
			wantInvalid(t, err, test.mention)
			if err != nil && !strings.Contains(err.Error(), "annotation") {
				t.Errorf("%s: %v does not say that it is about an annotation", test.name, err)
			}
			continue
		}
		if err != nil || !slices.Equal(c.Persist, test.want) || c.FreshVolumes != test.fresh {
			t.Errorf("%s: %q, fresh %t, %v", test.name, c.Persist, c.FreshVolumes, err)
		}
	}
}

// The pod's annotations can change while its sandbox stays: the request has the present ones.
func TestTheAnnotationsOfTheRequestCount(t *testing.T) {
	sb := model.Sandbox{Config: model.SandboxConfig{Annotations: map[string]string{persistAnnotation: "/old"}}}
	for _, test := range []struct {
		request *runtime.CreateContainerRequest
		want    string
	}{
		{&runtime.CreateContainerRequest{SandboxConfig: &runtime.PodSandboxConfig{Annotations: map[string]string{persistAnnotation: "/new"}}}, "/new"},
		{&runtime.CreateContainerRequest{SandboxConfig: &runtime.PodSandboxConfig{}}, ""},
		{&runtime.CreateContainerRequest{}, "/old"},
	} {
		if got := podAnnotations(test.request, sb)[persistAnnotation]; got != test.want {
			t.Errorf("%v: %q, want %q", test.request, got, test.want)
		}
	}
}

func FuzzPersistPaths(f *testing.F) {
	f.Add("/etc/app,/home/admin")
	f.Add("/a/../b,//,/proc/1")
	f.Fuzz(func(t *testing.T, list string) {
		paths, err := persistPaths(persistAnnotation, list)
		if err != nil {
			return
		}
		for _, p := range paths {
			if !strings.HasPrefix(p, "/") || p == "/" || strings.Contains(p+"/", "/../") || kernelPath(p) != "" || len(p) > maxVolumePath {
				t.Errorf("%q gives %q", list, p)
			}
		}
	})
}
