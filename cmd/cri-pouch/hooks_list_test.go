package main

import (
	"context"
	"encoding/json"
	"testing"

	"google.golang.org/protobuf/proto"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

func (f *fake) ListHooks(context.Context, *pouchv1.ListHooksRequest) (*pouchv1.ListHooksResponse, error) {
	return &pouchv1.ListHooksResponse{Files: []*pouchv1.HookFile{
		{File: "/etc/hooks.d/10-a.json", Stages: []string{"createRuntime", "poststop"}, Path: "/usr/bin/a", TimeoutSeconds: 5, When: &pouchv1.HookCondition{
			Always: proto.Bool(true), Annotations: map[string]string{"b$": "y", "a$": "\x1b[31mx"}, Commands: []string{"sh$", "init$"}, HasBindMounts: proto.Bool(false),
		}},
		{File: "/etc/hooks.d/20-b.json", Error: "it is no JSON object"},
	}}, nil
}

func TestHooksList(t *testing.T) {
	want := `FILE                     STAGES                   WHEN                                                                                                     PATH         TIMEOUT   ERROR
/etc/hooks.d/10-a.json   createRuntime,poststop   always=true and annotation a$=?[31mx and annotation b$=y and command sh$|init$ and hasBindMounts=false   /usr/bin/a   5s        -
/etc/hooks.d/20-b.json   -                        -                                                                                                        -            -         it is no JSON object
`
	r := command(t, node(), "", "hooks", "list")
	if r.code != 0 || r.out != want {
		t.Errorf("code %d, %s\n%s", r.code, r.err, r.out)
	}
	r = command(t, node(), "", "hooks", "list", "-o", "json")
	var got struct {
		Files []struct{ File, Error string }
	}
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || len(got.Files) != 2 || got.Files[1].Error != "it is no JSON object" {
		t.Errorf("%v: %s", err, r.out)
	}
	if r := command(t, node(), "", "hooks", "list", "x"); r.code != 2 {
		t.Errorf("code %d", r.code)
	}
}
