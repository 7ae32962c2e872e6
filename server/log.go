package server

import (
	"io"
	"time"

	"github.com/sirupsen/logrus"
)

// NewLogger gives the daemon's logger, which writes to w.
func NewLogger(c Log, w io.Writer) *logrus.Entry {
	l := logrus.New()
	l.SetOutput(w)
	applyLog(l, c)
	return logrus.NewEntry(l)
}

// applyLog sets level and format; it can be done while others log.
func applyLog(l *logrus.Logger, c Log) {
	l.SetLevel(c.level())
	if c.Format == "json" {
		l.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano})
		return
	}
	l.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, TimestampFormat: "2006-01-02T15:04:05.000000Z07:00", DisableColors: true})
}
