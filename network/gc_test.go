package network

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

func TestGCReleasesWhatNoPodHas(t *testing.T) {
	for version, asked := range map[string]bool{"1.1.0": true, "1.0.0": false} {
		t.Run(version, func(t *testing.T) {
			b := newBridgeNet(t)
			b.version, b.more = version, []map[string]any{{"type": "asks"}}
			n := withBridge(t, b)
			dump := filepath.Join(t.TempDir(), "dump")
			n.fakePlugin(t, "asks", fmt.Sprintf(`cat > %s.$CNI_COMMAND; [ $CNI_COMMAND != ADD ] || sed 's/.*"prevResult":\({.*}\),"type".*/\1/' %[1]s.ADD`, dump))
			kept, stale, live := testPod("kept"), testPod("stale"), testPod("live")
			_, k := n.attach(t, kept)
			n.pin(t, stale)
			if _, err := n.Attach(t.Context(), stale); err != nil {
				t.Fatal(err)
			}
			second := &node{Manager: open(t, n.o), o: n.o} // the daemon was started again
			_, l := second.attach(t, live)
			must(t, second.GC(t.Context(), []Pod{kept}))
			want := []string{k.IPs[0].String(), l.IPs[0].String()}
			got := b.reserved(t)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("reserved are %v, want %v", got, want)
			}
			checkAsked(t, dump+".GC", asked)
		})
	}
}

// checkAsked looks at what a plugin was told by the verb GC, which only those of CNI spec 1.1 know.
func checkAsked(t *testing.T, file string, want bool) {
	t.Helper()
	b, err := os.ReadFile(file)
	if !want && os.IsNotExist(err) {
		return
	}
	must(t, err)
	var told struct {
		Valid []types.GCAttachment `json:"cni.dev/valid-attachments"`
	}
	must(t, json.Unmarshal(b, &told))
	slices.SortFunc(told.Valid, func(a, b types.GCAttachment) int { return strings.Compare(a.ContainerID, b.ContainerID) })
	if valid := []types.GCAttachment{{ContainerID: "kept", IfName: ifName}, {ContainerID: "live", IfName: ifName}}; !want || !slices.Equal(told.Valid, valid) {
		t.Errorf("plugins were told to keep %v, want %v (asked at all: %v)", told.Valid, valid, want)
	}
}

func TestGCWorksWithoutConfiguration(t *testing.T) {
	b := newBridgeNet(t)
	n := withBridge(t, b)
	pod := testPod("pod1")
	n.pin(t, pod)
	if _, err := n.Attach(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	must(t, os.RemoveAll(n.o.CNIConfDir))
	must(t, open(t, n.o).GC(t.Context(), nil))
	if left := b.reserved(t); len(left) > 0 {
		t.Errorf("addresses %v are still reserved", left)
	}
}
