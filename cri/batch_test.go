package cri

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestBatchesHoldEachItemOnceAndStaySmall(t *testing.T) {
	item := func(id, size int) *runtime.PodSandbox {
		return &runtime.PodSandbox{Id: fmt.Sprint(id), Annotations: map[string]string{"a": strings.Repeat("x", size)}}
	}
	for name, tc := range map[string]struct {
		count, size, messages int
	}{
		"nothing":                  {0, 0, 0},
		"one":                      {1, 10, 1},
		"a usual node":             {110, 4000, 1},
		"large annotations":        {10, 300 << 10, 3},
		"each larger than a batch": {3, 2 << 20, 3},
	} {
		t.Run(name, func(t *testing.T) {
			var items []*runtime.PodSandbox
			var want, got []string
			for n := range tc.count {
				items = append(items, item(n, tc.size))
				want = append(want, fmt.Sprint(n))
			}
			messages := 0
			err := inBatches(items, func(part []*runtime.PodSandbox) error {
				messages++
				if len(part) == 0 {
					t.Error("an empty message was sent")
				}
				for _, p := range part {
					got = append(got, p.Id)
				}
				return nil
			})
			if err != nil || messages != tc.messages || !slices.Equal(got, want) {
				t.Errorf("%d messages with %v: %v", messages, got, err)
			}
		})
	}
}

func TestBatchesEndWithTheFirstErrorOfTheReader(t *testing.T) {
	left, calls := errors.New("the reader has left"), 0
	big := &runtime.PodSandbox{Id: strings.Repeat("x", batchBytes)}
	err := inBatches([]*runtime.PodSandbox{big, big, big}, func([]*runtime.PodSandbox) error { calls++; return left })
	if !errors.Is(err, left) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
}
