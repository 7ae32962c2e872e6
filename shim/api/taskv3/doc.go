// Package taskv3 is containerd's task API (containerd.task.v3.Task), generated from the .proto file in containerd's
// module without the gRPC service that its own Go package brings along: with that the shim would be 6 MB larger. Only
// the shim may import it: a program that has containerd's package too would register the same messages twice.
package taskv3

//go:generate sh -c "protoc --proto_path=$(go list -m -f {{.Dir}} github.com/containerd/containerd/api) --go_out=. --go_opt=paths=source_relative,Mruntime/task/v3/shim.proto=github.com/cri-pouch/cri-pouch/shim/api/taskv3';taskv3' --go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative,Mruntime/task/v3/shim.proto=github.com/cri-pouch/cri-pouch/shim/api/taskv3';taskv3' runtime/task/v3/shim.proto && mv runtime/task/v3/*.go . && rm -r runtime"
