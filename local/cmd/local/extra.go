package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ollama-k8s/local/internal/images"
	"ollama-k8s/local/internal/node"
	"ollama-k8s/local/internal/progress"
	"ollama-k8s/local/internal/toolchain"
)

// extra is software for trials next to the stack. `up` neither builds nor imports it.
type extra struct {
	tools []toolchain.Name
	files sourceFolder
}

// sourceFolder is a folder inside a module's sources, with a name for scripts.
type sourceFolder struct{ name, module, path string }

var extras = map[string]extra{
	"keda": {
		tools: []toolchain.Name{toolchain.KEDA, toolchain.KEDAAdapter},
		files: sourceFolder{"keda-crds", "github.com/kedacore/keda/v2", "config/crd"},
	},
	"kwok": {
		tools: []toolchain.Name{toolchain.Kwok},
		files: sourceFolder{"kwok-stages", "sigs.k8s.io/kwok", "kustomize/stage"},
	},
	"prometheus-adapter": {tools: []toolchain.Name{toolchain.PrometheusAdapter}},
}

func extraNames() []string { return slices.Sorted(maps.Keys(extras)) }

// provideExtras builds the named extras and imports their images if the cluster is up. It prints a line NAME FOLDER for
// each program and each folder of sources.
func provideExtras(ctx context.Context, names []string) error {
	var tools []toolchain.Name
	for _, name := range names {
		e, ok := extras[name]
		if !ok {
			return fmt.Errorf("unknown extra %q: use one of %s", name, strings.Join(extraNames(), ", "))
		}
		tools = append(tools, e.tools...)
	}
	log := progress.New(os.Stderr)
	defer log.Summary()
	if err := toolchain.Ensure(ctx, log, tools...); err != nil {
		return err
	}
	list, err := images.EnsureExtras(ctx, log, tools...)
	if err != nil {
		return err
	}
	if len(list) > 0 {
		err := node.Import(ctx, log, list)
		if errors.Is(err, fs.ErrNotExist) {
			log.Printf("the cluster is not up, so the images were not imported: run this again once it is up")
		} else if err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := tellExtra(ctx, extras[name]); err != nil {
			return err
		}
	}
	return nil
}

func tellExtra(ctx context.Context, e extra) error {
	for _, n := range e.tools {
		fmt.Println(n, filepath.Dir(toolchain.Path(n)))
	}
	if e.files == (sourceFolder{}) {
		return nil
	}
	module, err := toolchain.Sources(ctx, e.tools[0], e.files.module)
	if err != nil {
		return err
	}
	fmt.Println(e.files.name, filepath.Join(module, e.files.path))
	return nil
}
