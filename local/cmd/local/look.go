package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ollama-k8s/local/internal/node"
	"ollama-k8s/local/internal/progress"
	"ollama-k8s/local/internal/toolchain"
)

func status(ctx context.Context, _ *where) error {
	parts, err := node.Status(ctx)
	if err != nil {
		return err
	}
	sick := 0
	for _, part := range parts {
		health := "ok"
		if part.Problem != nil {
			health = part.Problem.Error()
			sick++
		}
		fmt.Printf("%-32s pid %-8d %s\n", part.Name, part.PID, health)
	}
	if sick > 0 {
		return fmt.Errorf("%d parts are unhealthy: run `make up` to repair them", sick)
	}
	return nil
}

func env(context.Context, *where) error {
	kubeconfig, err := node.Kubeconfig()
	if err != nil {
		return err
	}
	fmt.Printf("export KUBECONFIG=%s\n", quote(kubeconfig))
	fmt.Printf("export PATH=%s:$PATH\n", quote(filepath.Dir(toolchain.Command(toolchain.Kubectl))))
	return nil
}

// outputs prints ENDPOINT, CURL, and KEY_<TEAM> for each team.
func outputs(ctx context.Context, w *where) error {
	e, err := w.running(progress.New(os.Stderr))
	if err != nil {
		return err
	}
	values, err := e.Outputs(ctx)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch value := values[name].(type) {
		case string:
			fmt.Printf("%s=%s\n", strings.ToUpper(name), quote(value))
		case map[string]any: // apiKeys
			for _, team := range slices.Sorted(maps.Keys(value)) {
				fmt.Printf("KEY_%s=%s\n", strings.ToUpper(strings.ReplaceAll(team, "-", "_")), quote(fmt.Sprint(value[team])))
			}
		default:
			encoded, err := json.Marshal(value)
			if err != nil {
				return err
			}
			fmt.Printf("%s=%s\n", strings.ToUpper(name), quote(string(encoded)))
		}
	}
	return nil
}

// quote returns the value as one shell word.
func quote(value string) string { return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'" }
