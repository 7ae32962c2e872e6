package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
)

// rpcMetrics are the figures of the edge, by RPC.
type rpcMetrics struct {
	duration *prometheus.HistogramVec
	total    *prometheus.CounterVec
	panics   *prometheus.CounterVec
	inFlight *prometheus.GaugeVec
}

func newRPCMetrics(r prometheus.Registerer) *rpcMetrics {
	m := &rpcMetrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "cri_pouch_rpc_duration_seconds", Help: "Time from a request to its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300},
		}, []string{"rpc"}),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cri_pouch_rpc_total", Help: "Answered requests by gRPC code.",
		}, []string{"rpc", "code"}),
		panics: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cri_pouch_rpc_panics_total", Help: "Requests whose handler panicked; each is a defect.",
		}, []string{"rpc"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "cri_pouch_rpc_in_flight", Help: "Requests in progress.",
		}, []string{"rpc"}),
	}
	r.MustRegister(m.duration, m.total, m.panics, m.inFlight)
	return m
}

// newPanicCounter gives what counts panics by component, and all of them.
func newPanicCounter(r prometheus.Registerer) func(component string) uint64 {
	count := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "cri_pouch_panics_total", Help: "Panics, each of which has ended one piece of work; each is a defect. Component \"requests\": a handler.",
	}, []string{"component"})
	r.MustRegister(count)
	var total atomic.Uint64
	return func(component string) uint64 {
		if component == "" { // a log that no component owns
			component = "daemon"
		}
		count.WithLabelValues(component).Inc()
		return total.Add(1)
	}
}

// newRegistry gives the registry of this process; nothing is registered globally.
func newRegistry(version string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "cri_pouch_build_info", Help: "1, with the version as label.", ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	r.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// serveMetrics serves /metrics, and /debug/pprof if asked, until stop is called. Without an address it does nothing.
func serveMetrics(c Metrics, g prometheus.Gatherer, log *logrus.Entry) (stop func(context.Context) error, err error) {
	if c.Address == "" {
		return func(context.Context) error { return nil }, nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{}))
	if c.Pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	l, err := net.Listen("tcp", c.Address)
	if err != nil {
		return nil, fmt.Errorf("metrics.address: %w", err)
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
	done := make(chan struct{})
	crash.Go(log, "serve metrics", func() {
		defer close(done)
		if err := srv.Serve(exhaustion.Listen(l, "metrics", log)); !errors.Is(err, http.ErrServerClosed) {
			log.WithError(err).Error("metrics are no longer served")
		}
	})
	log.WithField("address", l.Addr().String()).Info("metrics are served")
	return func(ctx context.Context) error {
		err := srv.Shutdown(ctx)
		if err != nil {
			err = errors.Join(err, srv.Close())
		}
		<-done
		return err
	}, nil
}
