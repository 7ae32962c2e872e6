package kubelet

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/util/yaml"
)

// What a user applies is what an API server takes: no field is misspelled, nothing contradicts the rules of Kubernetes.
func TestTheManifestsOfTheExamplesAreValid(t *testing.T) {
	t.Parallel()
	n := start(t)
	files, err := filepath.Glob("../../examples/*/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no manifests: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for r := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; {
			document, err := r.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			n.validate(t, file, document)
		}
	}
}

// validate has the API server look at an object without making it.
func (n *node) validate(t *testing.T, file string, document []byte) {
	t.Helper()
	var head struct {
		Kind string `json:"kind"`
	}
	if err := yaml.Unmarshal(document, &head); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	resource, ok := map[string]string{"Pod": "pods", "ConfigMap": "configmaps"}[head.Kind]
	if !ok {
		t.Fatalf("%s: kind %q is not known to this test", file, head.Kind)
	}
	err := n.Client.CoreV1().RESTClient().Post().Namespace(namespace).Resource(resource).Param("dryRun", "All").Param("fieldValidation", "Strict").
		SetHeader("Content-Type", "application/yaml").Body(document).Do(limited(t)).Error()
	if err != nil {
		t.Errorf("%s: %s: %v", file, head.Kind, err)
	}
}
