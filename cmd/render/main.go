// Command render prints the Kubernetes objects of a stack as YAML, secrets redacted, with no cluster and no Pulumi CLI.
package main

import (
	"io"
	"os"

	"ollama-k8s/internal/command"
	"ollama-k8s/internal/render"
	"ollama-k8s/stacks"
)

const usage = `Prints the Kubernetes objects of a stack as YAML, secrets redacted. No cluster and no Pulumi CLI are
needed. Generated names end in a hash of the object's content, where Pulumi adds a random suffix.
`

func main() {
	command.Main("render", usage, func(file command.File, out io.Writer) error {
		values, err := stacks.ReadFile(file.Path, stacks.Project)
		if err != nil {
			return err
		}
		// The same check that Deploy begins with, without the engine's wrapping around its message.
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
