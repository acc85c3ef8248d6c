// Command plan prints how the memory of a stack's GPUs is used, from the config and models.lock.yaml alone.
package main

import (
	"io"
	"os"

	"ollama-k8s/internal/command"
	"ollama-k8s/stacks"
)

const usage = `Prints, for each pool of a stack, the memory of every model, how many stay loaded together, and the
settings that follow. No cluster, no network and no Pulumi CLI are needed. A config that does not fit is
refused with the arithmetic. Figures are GiB.
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
