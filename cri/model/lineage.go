package model

import "time"

// Cause says why a container was created, as seen from its predecessor.
type Cause string

// The causes. A container without a predecessor is the first of its name in its pod.
const (
	CauseFirst   Cause = "first"
	CauseRestart Cause = "restart" // what is asked for is what the predecessor was asked for
	CauseUpgrade Cause = "upgrade" // something else is asked for, mostly another image
)

// Lineage ties a container to the one that it follows. It is settled at creation and part of the container's record.
type Lineage struct {
	Cause Cause `json:"cause"`
	// Predecessor is the newest container of the same name in the same pod that ever ran; empty for the first.
	Predecessor string `json:"predecessor,omitempty"`
	// Hash is the kubelet's hash of what it asked for (annotation io.kubernetes.container.hash), bounded in length; empty
	// where the client gives none.
	Hash string `json:"hash,omitempty"`
}

// Generation is what a pod's history keeps of one container. It outlives the container.
type Generation struct {
	ID       string  `json:"id"`
	Name     string  `json:"name"`
	Attempt  uint32  `json:"attempt"`
	Image    string  `json:"image"` // what was asked for
	ImageID  string  `json:"imageID"`
	ImageRef string  `json:"imageRef"`
	Lineage  Lineage `json:"lineage"`

	CreatedAt time.Time `json:"createdAt"`
	// StartedAt is zero for one whose program never ran.
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
	ExitCode   int32     `json:"exitCode,omitempty"`
	Reason     string    `json:"reason,omitempty"`
	Message    string    `json:"message,omitempty"`
	// Outage is how long nothing ran before this one, from its predecessor's end to its own start, in ms; nil: unknown,
	// or there was no predecessor.
	Outage *int64 `json:"outage,omitempty"`
}
