package main

import (
	"strings"
	"testing"
)

// Each list keeps its place in the file, so that what the daemon says of it is true of the file.
func TestHookFileIsTakenApart(t *testing.T) {
	pre, post, err := hookLists([]byte("{\n  \"poststop\": [ ],\n  \"prestart\":\n  [{\"name\": \"é\"}]\n}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if want := " \n" + strings.Repeat(" ", 14) + "[ ]"; post != want {
		t.Errorf("poststop is %q", post)
	}
	if want := " \n" + strings.Repeat(" ", 18) + "\n" + strings.Repeat(" ", 13) + "\n  [{\"name\": \"é\"}]"; pre != want {
		t.Errorf("prestart is %q", pre)
	}
	for text, want := range map[string]string{
		"":                                 "it is no JSON object",
		"[]":                               "it is no JSON object",
		"{}":                               "neither prestart nor poststop",
		`{"prestop": []}`:                  `"prestop" is unknown`,
		`{"prestart": [], "prestart": []}`: `"prestart" is unknown or stands there twice`,
		"{\n \"prestart\": [x]}":           "prestart: line 2, column 15: invalid character",
		`{"prestart": [`:                   "the text ends in the middle",
		`{"prestart": []} []`:              "text behind",
	} {
		if _, _, err := hookLists([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
