package main

import (
	"slices"
	"strings"
	"testing"

	"ollama-k8s/local/internal/toolchain"
)

func TestAnUnknownExtraIsRefusedWithTheNamesThatThereAre(t *testing.T) {
	err := provideExtras(t.Context(), []string{"kubevirt"})
	if err == nil || !strings.Contains(err.Error(), `"kubevirt"`) || !strings.Contains(err.Error(), "keda, kwok, prometheus-adapter") {
		t.Errorf("error %v, want one that names kubevirt and what there is", err)
	}
}

func TestEachExtraConsistsOfKnownTools(t *testing.T) {
	for name, e := range extras {
		if len(e.tools) == 0 {
			t.Errorf("extra %s has no tools", name)
		}
		for _, n := range e.tools {
			if !slices.Contains(toolchain.Names(), n) {
				t.Errorf("extra %s: there is no tool %s", name, n)
			}
		}
	}
}
