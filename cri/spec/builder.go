package spec

import "context"

// Node is what the builder must know of the node.
type Node struct {
	SystemdCgroup   bool
	CgroupV2        bool
	AppArmor        bool
	SELinux         bool
	SeccompRoot     string // folder of localhost profiles given by relative names
	DefaultAppArmor string // name of the loaded default profile
}

// Builder builds specifications.
type Builder struct{ node Node }

// NewBuilder makes a Builder for the node.
func NewBuilder(n Node) *Builder { return &Builder{n} }

// Build gives the specification for in.
func (b *Builder) Build(ctx context.Context, in Input) (Output, error) { return Output{}, nil }
