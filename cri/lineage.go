package cri

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// hashAnnotation is where the kubelet notes the hash of a container's specification (name and image since 1.31).
const hashAnnotation = "io.kubernetes.container.hash"

// maxHash bounds what is kept of a hash, in bytes: the kubelet's has 8 hexadecimal digits.
const maxHash = 64

// podKey is what the sandboxes of one pod have in common: the kubelet runs another attempt where one is beyond repair.
// Without a UID (other clients) each sandbox is a pod of its own.
func podKey(id string, c model.SandboxConfig) string {
	if c.UID == "" {
		return id
	}
	return strings.Join([]string{c.Namespace, c.Name, c.UID}, "/")
}

// lineage says what a new container follows: the newest of its name in its pod that ever ran. The kubelet's hash decides
// between restart and upgrade; without one on both sides the image does.
func (s *Service) lineage(sb *sandbox, rec model.Container) model.Lineage {
	l := model.Lineage{Cause: model.CauseFirst, Hash: boundedHash(rec.Config.Annotations[hashAnnotation])}
	var before model.Generation
	for g := range s.known(sb) {
		if g.Name == rec.Config.Name && g.ran() && g.CreatedAt.After(before.CreatedAt) {
			before = g.Generation
		}
	}
	if before.ID == "" {
		return l
	}
	l.Predecessor, l.Cause = before.ID, model.CauseRestart
	same := before.ImageID == rec.ImageID && before.Image == bounded(rec.Config.UserImage, maxImage)
	if l.Hash != "" && before.Lineage.Hash != "" {
		same = l.Hash == before.Lineage.Hash
	}
	if !same {
		l.Cause = model.CauseUpgrade
	}
	return l
}

// boundedHash keeps a long hash comparable without keeping all of it.
func boundedHash(hash string) string {
	if len(hash) <= maxHash {
		return hash
	}
	sum := sha256.Sum256([]byte(hash))
	return "sha256:" + hex.EncodeToString(sum[:])
}
