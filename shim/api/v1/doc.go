// Package shimapi is the generated code of the shim's own ttrpc service, pouch.shim.v1, and of the options that travel
// in containerd's task messages.
package shimapi

//go:generate protoc --proto_path=../../.. --go_out=../../.. --go_opt=module=github.com/cri-pouch/cri-pouch --go-ttrpc_out=../../.. --go-ttrpc_opt=module=github.com/cri-pouch/cri-pouch shim/api/v1/shim.proto
