package crash

import (
	"github.com/sirupsen/logrus"
)

// Counter is a hook of a logger that is told of each panic in it, so that whoever logs one need not know who counts.
type Counter struct {
	// Count is called with the component that the entry names, "" where it names none, and gives the number of panics that
	// is to stand in the log beside it.
	Count func(component string) (total uint64)
}

// Levels is logrus.Hook's.
func (Counter) Levels() []logrus.Level { return []logrus.Level{logrus.ErrorLevel} }

// Fire is logrus.Hook's.
func (c Counter) Fire(e *logrus.Entry) error {
	if _, ok := e.Data[Field]; !ok {
		return nil
	}
	component, _ := e.Data["component"].(string)
	if component == "" {
		component, _ = e.Data["room"].(string)
	}
	e.Data["panics"] = c.Count(component)
	return nil
}
