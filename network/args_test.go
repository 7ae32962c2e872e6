package network

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestQuantities(t *testing.T) {
	for text, want := range map[string]float64{
		"0": 0, "1000": 1000, "10M": 10e6, "1.5G": 1.5e9, "1Ki": 1024, "2e6": 2e6, "2E6": 2e6, "1E": 1e18, ".5k": 500, "500m": .5, "+3T": 3e12, "1.k": 1000,
	} {
		if got, err := parseQuantity(text); err != nil || got != want {
			t.Errorf("%q is %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "M", "-1", "1 M", "1MB", "0x10", "1e", "1e999", "NaN", "Inf", ".", "1\n", strings.Repeat("9", 400)} {
		if got, err := parseQuantity(text); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}

func TestArgumentsThatAreRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		pod  Pod
		says string
	}{
		"name that smuggles an argument": {Pod{Name: "a;K8S_POD_NAMESPACE=kube-system"}, "K8S_POD_NAME"},
		"namespace with an equals sign":  {Pod{Namespace: "a=b"}, "K8S_POD_NAMESPACE"},
		"uid with a line":                {Pod{UID: "a\nb"}, "K8S_POD_UID"},
		"name too long":                  {Pod{Name: strings.Repeat("a", 254)}, "K8S_POD_NAME"},
		"ingress no number":              {Pod{Annotations: map[string]string{ingressAnnotation: "fast"}}, ingressAnnotation},
		"ingress too low":                {Pod{Annotations: map[string]string{ingressAnnotation: "999"}}, ingressAnnotation},
		"egress too high":                {Pod{Annotations: map[string]string{egressAnnotation: "2P"}}, egressAnnotation},
		"protocol":                       {Pod{PortMappings: []PortMapping{{"icmp", 1, 1, ""}}}, "icmp"},
		"host port":                      {Pod{PortMappings: []PortMapping{{"tcp", 1, 65536, ""}}}, "65536"},
		"negative host port":             {Pod{PortMappings: []PortMapping{{"tcp", 1, -1, ""}}}, "-1"},
		"container port":                 {Pod{PortMappings: []PortMapping{{"tcp", 0, 1, ""}}}, "65535"},
		"host IP":                        {Pod{PortMappings: []PortMapping{{"tcp", 1, 1, "localhost"}}}, "localhost"},
		"too many ports":                 {Pod{PortMappings: make([]PortMapping, 5000)}, "5000"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := cniArgs(tc.pod)
			if err == nil {
				_, err = capabilities(tc.pod)
			}
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want an invalid argument that says %q", err, tc.says)
			}
		})
	}
}

func TestPodCIDR(t *testing.T) {
	var m Manager
	m.o.Log = silentLog()
	for cidr, ok := range map[string]bool{
		"": true, "10.1.0.0/24": true, "10.1.0.0/24,fd00::/64": true, "fd00::/64, 10.1.0.0/24": true,
		"10.1.0.1/24": false, "10.1.0.0": false, "10.1.0.0/24,10.2.0.0/24": false, "a": false, ",": false, "10.1.0.0/24,fd00::/64,fd01::/64": false,
	} {
		if err := m.SetPodCIDR(cidr); (err == nil) != ok || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q gave %v, want it taken: %v", cidr, err, ok)
		}
	}
}
