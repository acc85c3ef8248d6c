package main

import (
	"slices"
	"strings"
	"testing"

	"ollama-k8s/local/internal/toolchain"
)

func TestAnUnknownExtraIsRefusedWithTheNamesThatThereAre(t *testing.T) {
	err := provideExtras(t.Context(), []string{"kubevirt"})
	for _, want := range []string{`"kubevirt"`, "keda, kwok, prometheus-adapter"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %s", err, want)
		}
	}
}

func TestEachExtraConsistsOfKnownTools(t *testing.T) {
	for name, e := range extras {
		if len(e.tools) == 0 {
			t.Errorf("extra %s has no tools", name)
		}
		for _, n := range e.tools {
			if !slices.Contains(toolchain.Names(), n) {
				t.Errorf("extra %s: unknown tool %s", name, n)
			}
		}
	}
}
