// Command render prints the Kubernetes objects of a stack as YAML, with secrets redacted. It needs neither a cluster
// nor the Pulumi CLI.
package main

import (
	"io"
	"os"

	"ollama-k8s/internal/command"
	"ollama-k8s/internal/render"
	"ollama-k8s/stacks"
)

const usage = `Prints the Kubernetes objects of a stack as YAML, with secrets redacted. You need neither a cluster nor
the Pulumi CLI. Generated names end in a hash of the object's content. Pulumi adds a random suffix instead.

`

func main() {
	command.Main("render", usage, func(file command.File, out io.Writer) error {
		values, err := stacks.ReadFile(file.Path, stacks.Project)
		if err != nil {
			return err
		}
		// Deploy begins with the same check, but the engine wraps its error.
		if _, err := stacks.Load(values, os.DirFS(".")); err != nil {
			return err
		}
		resources, err := render.Run(stacks.Project, file.Stack, values, false, stacks.Deploy)
		if err != nil {
			return err
		}
		_, err = out.Write(render.YAML(render.Objects(resources)))
		return err
	})
}
