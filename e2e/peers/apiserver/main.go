// The checks that a Kubernetes API server makes, run on our CustomResourceDefinitions and on manifests of our kinds,
// without a server: structural schemas, CEL types, CEL cost, then defaulting, pruning and validation of objects.
//
//	go run . CRD_FOLDER MANIFEST...
//
// It prints one line a file and ends with "N passed, M failed".
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	objectvalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// kind is what an API server keeps of an installed CustomResourceDefinition.
type kind struct {
	structural *schema.Structural
	validator  objectvalidation.SchemaValidator
	rules      *cel.Validator
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: apiserver CRD_FOLDER MANIFEST...")
		os.Exit(2)
	}
	passed, failed := 0, 0
	say := func(name string, problems []string) {
		if len(problems) == 0 {
			passed++
			fmt.Printf("ok      %s\n", name)
			return
		}
		failed++
		fmt.Printf("FAILED  %s\n", name)
		for _, problem := range problems {
			fmt.Printf("        %s\n", problem)
		}
	}
	kinds := map[string]kind{}
	files, err := filepath.Glob(filepath.Join(os.Args[1], "*.yaml"))
	if err != nil || len(files) == 0 {
		fmt.Fprintf(os.Stderr, "no CustomResourceDefinitions in %s\n", os.Args[1])
		os.Exit(2)
	}
	for _, file := range files {
		name, installed, problems := installCRD(file)
		say(filepath.Base(file), problems)
		if len(problems) == 0 {
			kinds[name] = installed
		}
	}
	for _, file := range os.Args[2:] {
		text, err := os.ReadFile(file)
		if err != nil {
			say(file, []string{err.Error()})
			continue
		}
		for index, document := range bytes.Split(text, []byte("\n---\n")) {
			expected, problems := checkObject(kinds, document)
			say(fmt.Sprintf("%s#%d%s", filepath.Base(file), index, expected), problems)
		}
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

// installCRD makes the checks of POST customresourcedefinitions.
func installCRD(file string) (string, kind, []string) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", kind{}, []string{err.Error()}
	}
	scheme := runtime.NewScheme()
	install.Install(scheme)
	external := &v1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict(text, external); err != nil {
		return "", kind{}, []string{err.Error()}
	}
	scheme.Default(external)
	internal := &apiextensions.CustomResourceDefinition{}
	if err := scheme.Convert(external, internal, nil); err != nil {
		return "", kind{}, []string{err.Error()}
	}
	internal.Status.StoredVersions = []string{internal.Spec.Versions[0].Name}
	if errs := crdvalidation.ValidateCustomResourceDefinition(context.Background(), internal); len(errs) > 0 {
		return "", kind{}, texts(errs)
	}
	validation, err := apiextensions.GetSchemaForVersion(internal, internal.Spec.Versions[0].Name)
	if err != nil {
		return "", kind{}, []string{err.Error()}
	}
	structural, err := schema.NewStructural(validation.OpenAPIV3Schema)
	if err != nil {
		return "", kind{}, []string{err.Error()}
	}
	validator, _, err := objectvalidation.NewSchemaValidator(validation.OpenAPIV3Schema)
	if err != nil {
		return "", kind{}, []string{err.Error()}
	}
	rules := cel.NewValidator(structural, true, celconfig.PerCallLimit)
	return internal.Spec.Names.Kind, kind{structural, validator, rules}, nil
}

// checkObject makes the checks of POST on an object of ours. A first line `# refused: TEXT` says that the object must be
// refused with a message that contains TEXT.
func checkObject(kinds map[string]kind, document []byte) (string, []string) {
	refused := ""
	for _, line := range strings.Split(string(document), "\n") {
		if rest, found := strings.CutPrefix(line, "# refused: "); found {
			refused = rest
		}
	}
	object := map[string]interface{}{}
	asJSON, err := yaml.YAMLToJSON(document)
	if err == nil {
		// An API server reads whole numbers as whole numbers.
		err = json.Unmarshal(asJSON, &object)
	}
	if err != nil {
		return "", []string{err.Error()}
	}
	name, _ := object["kind"].(string)
	installed, known := kinds[name]
	if !known {
		return "", []string{fmt.Sprintf("kind %q is not installed", name)}
	}
	before := fmt.Sprint(object)
	pruning.Prune(object, installed.structural, true)
	if before != fmt.Sprint(object) {
		return " " + name, []string{"has fields that an API server would drop"}
	}
	defaulting.Default(object, installed.structural)
	errs := objectvalidation.ValidateCustomResource(field.NewPath("object"), object, installed.validator)
	if installed.rules != nil {
		found, _ := installed.rules.Validate(context.Background(), field.NewPath("object"), installed.structural, object, nil, celconfig.RuntimeCELCostBudget)
		errs = append(errs, found...)
	}
	problems := texts(errs)
	if refused == "" {
		return " " + name, problems
	}
	for _, problem := range problems {
		if strings.Contains(problem, refused) {
			return " " + name + " refused", nil
		}
	}
	return " " + name, append(problems, "should have been refused with: "+refused)
}

func texts(errs field.ErrorList) []string {
	problems := []string{}
	for _, err := range errs {
		problems = append(problems, err.Error())
	}
	return problems
}
