// Package example reads the folders of examples/ as their users would use them: the Dockerfile as what builds the image, the
// manifests as what the kubelet makes of them for a container runtime.
package example

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"
)

// Example is a folder of examples/.
type Example struct {
	Dir        string
	Image      *Image
	Pod        Pod
	ConfigMaps map[string]ConfigMap // by name
}

// Load reads the folder dir. What it does not know in a file is an error.
func Load(dir string) (*Example, error) {
	image, err := readDockerfile(dir)
	if err != nil {
		return nil, err
	}
	e := &Example{Dir: dir, Image: image, ConfigMaps: map[string]ConfigMap{}}
	text, err := os.ReadFile(filepath.Join(dir, "pod.yaml"))
	if err != nil {
		return nil, err
	}
	if err := e.readManifests(text); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, "pod.yaml"), err)
	}
	return e, nil
}

// readManifests reads a pod and ConfigMaps, in any order.
func (e *Example) readManifests(text []byte) error {
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var document yaml.Node
		if err := d.Decode(&document); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		var head struct {
			Kind string `yaml:"kind"`
		}
		if err := document.Decode(&head); err != nil {
			return err
		}
		switch head.Kind {
		case "Pod":
			if e.Pod.Metadata.Name != "" {
				return errors.New("there are two pods")
			}
			if err := strictly(&document, &e.Pod); err != nil {
				return err
			}
		case "ConfigMap":
			var m ConfigMap
			if err := strictly(&document, &m); err != nil {
				return err
			}
			e.ConfigMaps[m.Metadata.Name] = m
		default:
			return fmt.Errorf("kind %q is not known here", head.Kind)
		}
	}
	if len(e.Pod.Spec.Containers) == 0 {
		return errors.New("there is no pod with a container")
	}
	return e.checkVolumes()
}

// strictly decodes a document; a field that into does not have is an error.
func strictly(document *yaml.Node, into any) error {
	text, err := yaml.Marshal(document)
	if err != nil {
		return err
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	return d.Decode(into)
}

// checkVolumes finds mounts of volumes, and volumes of ConfigMaps, that are not there.
func (e *Example) checkVolumes() error {
	volumes := map[string]bool{}
	for _, v := range e.Pod.Spec.Volumes {
		volumes[v.Name] = true
		if v.ConfigMap == nil {
			continue
		}
		if _, ok := e.ConfigMaps[v.ConfigMap.Name]; !ok {
			return fmt.Errorf("volume %s: there is no ConfigMap %s", v.Name, v.ConfigMap.Name)
		}
	}
	for _, c := range e.Pod.Spec.Containers {
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				return fmt.Errorf("container %s: there is no volume %s", c.Name, m.Name)
			}
		}
	}
	return nil
}
