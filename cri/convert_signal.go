package cri

import (
	"slices"
	"strings"
	"syscall"

	"github.com/moby/sys/signal"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// signalFromCRI gives the signal's name ("SIGTERM", "SIGRTMIN+3"); empty for the runtime's default.
func signalFromCRI(s runtime.Signal) (string, error) {
	if s == runtime.Signal_SIGNAL_RUNTIME_DEFAULT {
		return "", nil
	}
	full, ok := runtime.Signal_name[int32(s)]
	if !ok {
		return "", invalid("stop_signal", "unknown signal %d", s)
	}
	name := strings.TrimPrefix(full, "SIGNAL_")
	name = strings.Replace(name, "PLUS", "+", 1)
	return strings.Replace(name, "MINUS", "-", 1), nil
}

// signalToCRI gives CRI's value for a signal's name or number; the runtime's default for what CRI has no name for.
func signalToCRI(name string) runtime.Signal {
	if name == "" {
		return runtime.Signal_SIGNAL_RUNTIME_DEFAULT
	}
	if s, ok := criSignal(name); ok {
		return s
	}
	n, err := signal.ParseSignal(name)
	if err != nil {
		return runtime.Signal_SIGNAL_RUNTIME_DEFAULT
	}
	// Two names for one number come out as the first of the alphabet (SIGABRT, not SIGIOT; SIGCHLD, not SIGCLD).
	var names []string
	for k, v := range signal.SignalMap {
		if v == syscall.Signal(n) {
			names = append(names, k)
		}
	}
	slices.Sort(names)
	for _, k := range names {
		if s, ok := criSignal("SIG" + k); ok {
			return s
		}
	}
	return runtime.Signal_SIGNAL_RUNTIME_DEFAULT
}

func criSignal(name string) (runtime.Signal, bool) {
	name = strings.Replace(strings.ToUpper(name), "+", "PLUS", 1)
	s, ok := runtime.Signal_value["SIGNAL_"+strings.Replace(name, "-", "MINUS", 1)]
	return runtime.Signal(s), ok
}
