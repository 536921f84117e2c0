// What Flux makes of our objects: kstatus, which its controllers wait by, on the test data of Argo CD's health checks.
package flux

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const folder = "../../../hack/argocd/health"

func read(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, path))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func TestFluxWaitsForWhatArgoWaitsFor(t *testing.T) {
	var table struct {
		Tests []struct {
			HealthStatus struct{ Status string }
			InputPath    string
		}
	}
	read(t, "health_test.yaml", &table)
	if len(table.Tests) == 0 {
		t.Fatal("no test data")
	}
	for _, one := range table.Tests {
		object := &unstructured.Unstructured{}
		read(t, one.InputPath, object)
		result, err := status.Compute(object)
		if err != nil {
			t.Fatal(err)
		}
		// Healthy is Current, and nothing else is, so whoever waits does not go on too early. Degraded may mend itself, so Flux waits on;
		// Stalled does not, and it gives up. A pause takes nothing from what was said before.
		healthy := one.HealthStatus.Status == "Healthy" || one.HealthStatus.Status == "Suspended"
		if healthy != (result.Status == status.CurrentStatus) {
			t.Errorf("%s: %s for Argo CD, %s for Flux: %s", one.InputPath, one.HealthStatus.Status, result.Status, result.Message)
		}
		t.Logf("%-45s %-12s %s", one.InputPath, one.HealthStatus.Status, result.Status)
	}
}
