package main

import (
	"strings"
	"testing"
)

func TestParseArguments(t *testing.T) {
	for line, want := range map[string]arguments{
		"":                              {state: "/run/cri-pouch"},
		"--state /s --debug":            {state: "/s", debug: true},
		"-debug -state=/s":              {state: "/s", debug: true},
		"--state= --version":            {version: true},
		"--state --debug --state --twi": {state: "--twi"},
	} {
		if a, err := parseArguments(strings.Fields(line)); err != nil || a != want {
			t.Errorf("%q: %+v, %v", line, a, err)
		}
	}
	for _, line := range []string{"state /s", "--state", "--debug=yes", "--unknown", "-", "--", "---debug", "--debug more"} {
		if a, err := parseArguments(strings.Fields(line)); err == nil || !strings.Contains(err.Error(), "usage:") {
			t.Errorf("%q: %+v, %v", line, a, err)
		}
	}
}
