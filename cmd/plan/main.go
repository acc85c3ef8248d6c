// Command plan prints how a stack uses the memory of its GPUs. It reads only the config and models.lock.yaml.
package main

import (
	"io"
	"os"

	"ollama-k8s/internal/command"
	"ollama-k8s/stacks"
)

const usage = `Prints, for each pool of a stack, the memory of each model, how many models stay loaded together, and
the resulting settings. If the models do not fit, prints the arithmetic and fails. Figures are in GiB.
You need no cluster, no network and no Pulumi CLI.

`

func main() {
	command.Main("plan", usage, func(file command.File, out io.Writer) error {
		values, err := stacks.ReadFile(file.Path, stacks.Project)
		if err != nil {
			return err
		}
		config, err := stacks.Load(values, os.DirFS("."))
		if err != nil {
			return err
		}
		return config.PrintPlan(out)
	})
}
