// Command pulumi-random is a STAND-IN for Pulumi's random plugin, for machines
// that cannot download plugins. It is not Pulumi's code, and it serves one
// resource only: random:index/randomPassword:RandomPassword, with the inputs,
// the defaults, the checks and the replacements of the real one. A plugin that
// is installed on the machine is always preferred to it.
package main

import (
	"context"
	"fmt"
	"os"

	provider "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
)

// version is that of the SDK whose resource this stands in for: the engine
// takes a plugin only if it is not older than the program's SDK.
const version = "4.18.2"

const description = "A stand-in for Pulumi's random plugin: RandomPassword only, " +
	"for machines that cannot download plugins."

func main() {
	plugin, err := newPlugin()
	if err == nil {
		err = plugin.Run(context.Background(), "random", version)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pulumi-random (stand-in):", err)
		os.Exit(1)
	}
}

func newPlugin() (provider.Provider, error) {
	plugin, err := infer.NewProviderBuilder().
		WithDisplayName("random (stand-in)").
		WithDescription(description).
		WithNamespace("ollama-k8s").
		WithResources(infer.Resource(&RandomPassword{})).
		Build()
	if err != nil {
		return provider.Provider{}, fmt.Errorf("describing the plugin: %w", err)
	}
	return plugin, nil
}
