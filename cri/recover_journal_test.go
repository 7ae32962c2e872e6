package cri

import (
	"testing"
	"time"

	"github.com/cri-pouch/cri-pouch/internal/journal"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// What happened inside of a rich container while no daemon ran is told by the next one, and nothing twice.
func TestWhatWasToldOfTheInside(t *testing.T) {
	at := func(second int64) time.Time { return time.Unix(second, 0) }
	record := func(starts ...int64) (r richrun.Record) {
		for i, s := range starts {
			r.Runs = append(r.Runs, richrun.Run{N: i + 1, StartedAt: at(s)})
		}
		r.Starts, r.Units = len(starts), []string{"a.service", "b.service"}
		return r
	}
	restarted := func(second int64) journal.Entry { return journal.Entry{Kind: journal.AppRestarted, Time: at(second)} }
	failed := journal.Entry{Kind: journal.UnitFailed}
	long := record(10, 20, 30)
	long.Starts = 100 // of which the record tells no more
	for name, test := range map[string]struct {
		off            bool
		oldest         int64
		entries        []journal.Entry
		record         richrun.Record
		starts, failed int
	}{
		"nothing":                    {record: record(10, 20, 30), starts: 0},
		"a restart":                  {entries: []journal.Entry{restarted(20)}, record: record(10, 20, 30), starts: 2},
		"all":                        {entries: []journal.Entry{restarted(20), failed, restarted(30), failed}, record: record(10, 20, 30), starts: 3, failed: 2},
		"a unit":                     {entries: []journal.Entry{failed}, record: record(10), failed: 1},
		"more than the record has":   {entries: []journal.Entry{restarted(20)}, record: long, starts: 99},
		"what may be forgotten":      {oldest: 25, record: record(10, 20, 30), starts: 2, failed: 2},
		"not what came after that":   {oldest: 15, entries: []journal.Entry{restarted(20)}, record: record(10, 20, 30), starts: 2, failed: 2},
		"no journal, nothing to say": {off: true, record: record(10, 20, 30), starts: 3, failed: 2},
	} {
		told := told{off: test.off, rich: map[string]richTold{}}
		if test.oldest > 0 {
			told.oldest = at(test.oldest)
		}
		for _, e := range test.entries {
			e.ContainerID = "id"
			told.addRich(e)
		}
		if starts, failed := told.inside("id", at(9)).of(test.record); starts != test.starts || failed != test.failed {
			t.Errorf("%s: %d starts and %d failures are told, want %d and %d", name, starts, failed, test.starts, test.failed)
		}
	}
}
