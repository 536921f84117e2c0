// The health checks of hack/argocd, run by the Lua that Argo CD runs them with, on its own kind of test data.
package argocd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	lua "github.com/yuin/gopher-lua"
	"sigs.k8s.io/yaml"
)

const folder = "../../../hack/argocd"

type verdict struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

type table struct {
	Tests []struct {
		HealthStatus verdict `json:"healthStatus"`
		InputPath    string  `json:"inputPath"`
	} `json:"tests"`
}

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

// As Argo CD hands an object to a script: JSON values as Lua's own.
func value(state *lua.LState, from any) lua.LValue {
	switch from := from.(type) {
	case string:
		return lua.LString(from)
	case bool:
		return lua.LBool(from)
	case float64:
		return lua.LNumber(from)
	case []any:
		list := state.NewTable()
		for _, one := range from {
			list.Append(value(state, one))
		}
		return list
	case map[string]any:
		fields := state.NewTable()
		for key, one := range from {
			fields.RawSetString(key, value(state, one))
		}
		return fields
	}
	return lua.LNil
}

// Argo CD gives scripts the base and table libraries, and of its own an `os` that can tell the time (util/lua/lua.go): no `string`, no `math`.
func health(t *testing.T, script string, object any) verdict {
	t.Helper()
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable,
	} {
		state.Push(state.NewFunction(open))
		state.Push(lua.LString(name))
		state.Call(1, 0)
	}
	state.SetGlobal("obj", value(state, object))
	if err := state.DoString(script); err != nil {
		t.Fatal(err)
	}
	answer, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		t.Fatalf("the script answered %v", state.Get(-1))
	}
	return verdict{answer.RawGetString("status").String(), answer.RawGetString("message").String()}
}

// Each object of a table is called what the table says; the kinds among them.
func judged(t *testing.T, place string) map[string]bool {
	t.Helper()
	script, err := os.ReadFile(filepath.Join(folder, place, "health.lua"))
	if err != nil {
		t.Fatal(err)
	}
	var cases table
	read(t, filepath.Join(place, "health_test.yaml"), &cases)
	kinds := map[string]bool{}
	for _, one := range cases.Tests {
		var object map[string]any
		read(t, filepath.Join(place, one.InputPath), &object)
		kinds[object["kind"].(string)] = true
		if got := health(t, string(script), object); got != one.HealthStatus {
			t.Errorf("%s: %+v, not %+v", one.InputPath, got, one.HealthStatus)
		}
	}
	inputs, err := filepath.Glob(filepath.Join(folder, place, "testdata/*.yaml"))
	if err != nil || len(inputs) != len(cases.Tests) {
		t.Errorf("%s: %d objects, %d of them in the table (%v)", place, len(inputs), len(cases.Tests), err)
	}
	return kinds
}

var kinds = []string{"AIStack", "KVCluster", "VectorCollection", "InferenceService", "World", "TaskSet", "EnvPool"}

func TestHealthOfEveryKind(t *testing.T) {
	seen := judged(t, "health")
	for _, kind := range kinds {
		if !seen[kind] {
			t.Errorf("no test data for %s", kind)
		}
	}
}

// Without this health waves of Applications do not wait for one another.
func TestAnApplicationIsHealthyWhenItsNewestSyncIsOverAndAllOfItIsThere(t *testing.T) {
	judged(t, "health/application")
	script, err := os.ReadFile(filepath.Join(folder, "health/application/health.lua"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"kinds", "operator", "stack"} {
		var application map[string]any
		read(t, "apps/"+path+".yaml", &application)
		if got := health(t, string(script), application); got.Status != "Progressing" {
			t.Errorf("%s, as it is in Git: %+v", path, got)
		}
	}
}

// What is installed is what is tested.
func TestTheConfigMapHoldsTheScripts(t *testing.T) {
	var config struct {
		Data map[string]string `json:"data"`
	}
	read(t, "argocd-cm.yaml", &config)
	paths := map[string]string{"argoproj.io_Application": "health/application/health.lua"}
	for _, kind := range kinds {
		paths["platform.dev_"+kind] = "health/health.lua"
	}
	for kind, path := range paths {
		script, err := os.ReadFile(filepath.Join(folder, path))
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(config.Data["resource.customizations.health."+kind]) != strings.TrimSpace(string(script)) {
			t.Errorf("hack/argocd/argocd-cm.yaml has another script for %s than hack/argocd/%s; copy it there", kind, path)
		}
	}
	// Other teams' scripts are under other keys, and stay.
	if len(config.Data) != len(paths) {
		t.Errorf("hack/argocd/argocd-cm.yaml has %d keys for %d kinds", len(config.Data), len(paths))
	}
}
