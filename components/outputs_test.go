package components_test

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/assert"

	"ollama-k8s/components"
)

func TestEveryOutputHasAName(t *testing.T) {
	for _, component := range []any{
		components.ModelStore{}, components.OllamaServer{}, components.AuthFront{}, components.Observability{},
		components.Nodes{},
	} {
		kind := reflect.TypeOf(component)
		for i := range kind.NumField() {
			field := kind.Field(i)
			if field.Anonymous || field.Type == reflect.TypeFor[components.StoreMount]() { // args of OllamaServer, not an output
				continue
			}
			assert.NotEmpty(t, field.Tag.Get("pulumi"), "%s.%s", kind.Name(), field.Name)
		}
	}
}
