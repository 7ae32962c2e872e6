package model

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
)

// Schema is the version of the records that this program writes. It is raised by a change that an older program would
// misread. Records without one, 0, are older than versions: they read as they are.
const Schema = 1

// EncodeSandbox gives the record as it is stored.
func EncodeSandbox(rec Sandbox) ([]byte, error) {
	rec.Schema = Schema
	b, err := json.Marshal(rec)
	if err != nil {
		return nil, fmt.Errorf("encode record of sandbox %s: %w", rec.ID, err)
	}
	return b, nil
}

// DecodeSandbox reads the record that is stored under id. errdefs.ErrDataLoss: it cannot be understood as a whole.
func DecodeSandbox(id string, b []byte) (rec Sandbox, err error) {
	if err := decode(b, &rec, &rec.Schema, &rec.ID, id); err != nil {
		return Sandbox{}, fmt.Errorf("record of sandbox %s: %w", id, err)
	}
	switch rec.State {
	case SandboxCreating, SandboxReady, SandboxNotReady:
		return rec, nil
	}
	return Sandbox{}, fmt.Errorf("record of sandbox %s: state %q is unknown: %w", id, rec.State, errdefs.ErrDataLoss)
}

// EncodeContainer gives the record as it is stored.
func EncodeContainer(rec Container) ([]byte, error) {
	rec.Schema = Schema
	b, err := json.Marshal(rec)
	if err != nil {
		return nil, fmt.Errorf("encode record of container %s: %w", rec.ID, err)
	}
	return b, nil
}

// DecodeContainer reads the record that is stored under id. errdefs.ErrDataLoss: it cannot be understood as a whole.
func DecodeContainer(id string, b []byte) (rec Container, err error) {
	if err := decode(b, &rec, &rec.Schema, &rec.ID, id); err != nil {
		return Container{}, fmt.Errorf("record of container %s: %w", id, err)
	}
	if rec.SandboxID == "" {
		return Container{}, fmt.Errorf("record of container %s names no sandbox: %w", id, errdefs.ErrDataLoss)
	}
	return rec, nil
}

// decode reads b into rec, whose fields schema and got are.
func decode(b []byte, rec any, schema *int, got *string, id string) error {
	if err := json.Unmarshal(b, rec); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	}
	if *schema > Schema || *schema < 0 {
		return fmt.Errorf("it has version %d, and this program knows versions up to %d: %w", *schema, Schema, errdefs.ErrDataLoss)
	}
	if *got != id {
		return fmt.Errorf("it is that of %q: %w", *got, errdefs.ErrDataLoss)
	}
	return nil
}
