// Package kubelet holds the tests of cri-pouch under a kubelet and an API server as released: what a user of Kubernetes
// sees. All tests share one cluster of one node (package cluster), which the first one starts. They talk to the API
// server; what it cannot tell, as the sandbox's ID, they ask the runtime.
package kubelet
