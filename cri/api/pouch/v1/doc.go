// Package pouchv1 has the messages of pouch.v1, cri-pouch's own service beside CRI on the same socket.
package pouchv1

//go:generate protoc --proto_path=. --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative pouch.proto
