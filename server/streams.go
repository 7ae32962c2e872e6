package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"

	"github.com/cri-pouch/cri-pouch/cri/stream"
	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
)

// streams are the HTTP listener of exec, attach and port-forward, and what serves it.
type streams struct {
	server *stream.Server
	http   *http.Server
	done   chan struct{} // the listener has ended
}

// openStreams listens and serves. Nothing is behind the listener before the first URL is given away.
func openStreams(c Streaming, backend stream.Backend, log *logrus.Entry) (*streams, error) {
	var certificate *tls.Config
	scheme := "http"
	if c.TLSCert != "" {
		pair, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
		if err != nil {
			return nil, fmt.Errorf("streaming.tls_cert and streaming.tls_key: %w", err)
		}
		// HTTP/2 has no upgrade to SPDY or WebSocket.
		certificate = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
		scheme = "https"
	}
	// A client whose machine has gone without a word is noticed within a minute.
	config := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}}
	l, err := config.Listen(context.Background(), "tcp", net.JoinHostPort(c.Address, strconv.Itoa(c.Port)))
	if err != nil {
		return nil, fmt.Errorf("streaming.address: %w", err)
	}
	s := &streams{done: make(chan struct{})}
	s.server, err = stream.New(stream.Options{Base: scheme + "://" + l.Addr().String(), Idle: time.Duration(c.IdleTimeout), Log: log}, backend)
	if err != nil {
		l.Close()
		return nil, err
	}
	quietLibraries(log)
	s.http = &http.Server{
		Handler: s.server, ConnContext: s.server.ConnContext, TLSConfig: certificate, ErrorLog: debugLogger(log),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
	}
	crash.Go(log, "serve streams", func() { s.serve(l, log) })
	log.WithField("address", l.Addr().String()).WithField("tls", certificate != nil).Info("streams are served")
	return s, nil
}

func (s *streams) serve(l net.Listener, log *logrus.Entry) {
	defer close(s.done)
	serve := s.http.Serve
	if s.http.TLSConfig != nil {
		serve = func(l net.Listener) error { return s.http.ServeTLS(l, "", "") }
	}
	if err := serve(exhaustion.Listen(stream.Listen(l.(*net.TCPListener)), "streams", log)); !errors.Is(err, http.ErrServerClosed) {
		log.WithError(err).Error("streams are no longer served")
	}
}

// close ends all streams: their processes are killed, containers go on.
func (s *streams) close() error {
	err := errors.Join(s.server.Close(), s.http.Close())
	<-s.done
	return err
}

// quietLibraries leads the log of Kubernetes' libraries into ours. What they call errors are mostly clients that have gone;
// the client has been told.
func quietLibraries(log *logrus.Entry) {
	klog.LogToStderr(false)
	klog.SetOutput(debugWriter{log})
}

func debugLogger(l *logrus.Entry) *log.Logger { return log.New(debugWriter{l}, "", 0) }

// debugWriter logs what is written to it, at level debug.
type debugWriter struct{ log *logrus.Entry }

var _ io.Writer = debugWriter{}

// Write takes one message.
func (d debugWriter) Write(p []byte) (int, error) {
	d.log.Debug(strings.TrimSpace(string(p)))
	return len(p), nil
}
