package cri

import "github.com/prometheus/client_golang/prometheus"

// upgradeMetrics are the figures of upgrades, for Prometheus.
type upgradeMetrics struct {
	upgrades *prometheus.CounterVec
	outage   prometheus.Histogram
}

// newUpgradeMetrics registers them with r; nil: nowhere.
func newUpgradeMetrics(r prometheus.Registerer) *upgradeMetrics {
	m := &upgradeMetrics{
		upgrades: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cri_pouch_upgrades_total", Help: "Containers that replaced another version in their pod, by whether their program could be started.",
		}, []string{"result"}),
		outage: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "cri_pouch_upgrade_outage_seconds", Help: "Time from the end of the old version to the start of the new one.",
			Buckets: []float64{.01, .025, .05, .075, .1, .15, .2, .3, .5, .75, 1, 2.5, 5, 10, 30, 60, 300},
		}),
	}
	for _, result := range []string{upgradeSucceeded, upgradeFailed} {
		m.upgrades.WithLabelValues(result) // a rate needs the zero
	}
	if r != nil {
		r.MustRegister(m.upgrades, m.outage)
	}
	return m
}

const (
	upgradeSucceeded = "succeeded"
	upgradeFailed    = "failed"
)

// upgraded counts an upgrade with its outage in ms, if that is known.
func (m *upgradeMetrics) upgraded(outage *int64) {
	m.upgrades.WithLabelValues(upgradeSucceeded).Inc()
	if outage != nil {
		m.outage.Observe(float64(*outage) / 1000)
	}
}

func (m *upgradeMetrics) upgradeFailed() { m.upgrades.WithLabelValues(upgradeFailed).Inc() }
