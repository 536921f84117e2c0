// The OLM bundle before the Operator Framework's own validators: those that every bundle has to pass, and those of operatorhub.io.
package olm

import (
	"strings"
	"testing"

	"github.com/operator-framework/api/pkg/manifests"
	"github.com/operator-framework/api/pkg/validation"
	"github.com/operator-framework/api/pkg/validation/errors"
	interfaces "github.com/operator-framework/api/pkg/validation/interfaces"
)

func TestTheBundleIsOneThatCatalogsTake(t *testing.T) {
	bundle, err := manifests.GetBundleFromDir("../../../hack/olm")
	if err != nil {
		t.Fatal(err)
	}
	if bundle.CSV == nil || len(bundle.V1CRDs) != 7 {
		t.Fatalf("a CSV and seven kinds, and not %d", len(bundle.V1CRDs))
	}
	validators := interfaces.Validators{
		validation.ClusterServiceVersionValidator, validation.CustomResourceDefinitionValidator, validation.BundleValidator,
		validation.OperatorHubV2Validator, validation.StandardCategoriesValidator, validation.StandardCapabilitiesValidator,
		validation.ObjectValidator, validation.AlphaDeprecatedAPIsValidator, validation.GoodPracticesValidator,
	}
	objects := []interface{}{bundle, bundle.CSV}
	for _, crd := range bundle.V1CRDs {
		objects = append(objects, crd)
	}
	judged := 0
	for _, result := range validators.Validate(objects...) {
		judged++
		for _, found := range append(append([]errors.Error{}, result.Errors...), result.Warnings...) {
			// A right names no version, so the validator takes any on events and the like for one on those versions that are no more.
			if found.Level == errors.LevelWarn && strings.Contains(found.Error(), "deprecated and removed in v1.25") {
				continue
			}
			t.Errorf("%s: %s", result.Name, found.Error())
		}
	}
	if judged == 0 {
		t.Fatal("nothing was judged")
	}
}
