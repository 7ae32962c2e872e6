package main

import (
	"strings"

	"github.com/sirupsen/logrus"
)

// formatter leaves out what libcontainer says each time it writes down a container with hooks that are functions of the
// shim's: they are not to be written down.
type formatter struct{ logrus.Formatter }

func (f formatter) Format(e *logrus.Entry) ([]byte, error) {
	if strings.HasPrefix(e.Message, "cannot serialize hook of type configs.FuncHook") {
		return nil, nil
	}
	return f.Formatter.Format(e)
}
