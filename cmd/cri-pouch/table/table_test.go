package table

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"
	"unicode"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestWrite(t *testing.T) {
	var b bytes.Buffer
	rows := [][]string{{"a", "long name", ""}, {"ünï", "b\x1b[2J\nc", "end"}}
	if err := Write(&b, []string{"ID", "NAME", "X"}, rows); err != nil {
		t.Fatal(err)
	}
	want := "ID    NAME        X\n" +
		"a     long name\n" +
		"ünï   b?[2J?c     end\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	if rows[1][1] != "b\x1b[2J\nc" {
		t.Error("the caller's rows were changed")
	}
}

func TestJSONWithInfo(t *testing.T) {
	var b bytes.Buffer
	err := JSONWithInfo(&b, "image", &runtime.Image{Id: "x", Size: 5}, map[string]string{"info": `{"b":1}`, "c": "no json", "image": "another"})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Image struct{ ID string }
		Info  struct{ B int }
		C     string
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Image.ID != "x" || got.Info.B != 1 || got.C != "no json" {
		t.Errorf("got %+v of %s", got, b.String())
	}
}

// JSON means what it meant, and steers no terminal.
func TestJSONLeavesTerminalsAlone(t *testing.T) {
	said := "é世🙂 \ufffd \x1b[2J\x7f \u009b31m \u202e\u200b \U000e0041 \u00a0\n\"\\"
	var b bytes.Buffer
	if err := JSON(&b, &runtime.Image{Id: said}); err != nil {
		t.Fatal(err)
	}
	var got struct{ ID string }
	if err := json.Unmarshal(b.Bytes(), &got); err != nil || got.ID != said {
		t.Errorf("%v, %q becomes %q", err, said, got.ID)
	}
	if !bytes.Contains(b.Bytes(), []byte("é世🙂 \ufffd ")) {
		t.Errorf("letters are escaped: %s", &b)
	}
	for _, r := range b.String() {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("%q is let through: %q", r, &b)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0B", 999: "999B", 1000: "1.00kB", 9994: "9.99kB", 9995: "10.0kB", 99950: "100kB", 999_499: "999kB", 999_500: "1.00MB",
		1_234_567: "1.23MB", 45_600_000: "45.6MB", 1 << 63: "9.22EB",
	} {
		if got := Size(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}

func TestAge(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for d, want := range map[time.Duration]string{
		-time.Minute: "0s", 0: "0s", 59 * time.Second: "59s", time.Minute: "1m", 90 * time.Minute: "1h", 47 * time.Hour: "47h", 49 * time.Hour: "2d",
	} {
		if got := Age(now.Add(-d).UnixNano(), now); got != want {
			t.Errorf("%s ago is %s, want %s", d, got, want)
		}
	}
	if got := Age(0, now); got != "-" {
		t.Errorf("no time is %s", got)
	}
}
