// Command render prints the Kubernetes objects of a stack as YAML, secrets redacted, with no cluster and no Pulumi CLI.
package main

import (
	"io"

	"ollama-k8s/internal/command"
	"ollama-k8s/internal/pulumitest"
	"ollama-k8s/stacks"
)

const usage = `Prints the Kubernetes objects of a stack as YAML, secrets redacted. No cluster and no Pulumi CLI are needed.
Generated names end in a hash of the object's content, where Pulumi adds a random suffix.
`

func main() {
	command.Main("render", usage, func(file *stacks.File, out io.Writer) error {
		// The same check that Deploy begins with, without the engine's wrapping around its message.
		if _, err := file.Load(); err != nil {
			return err
		}
		values, err := file.Values()
		if err != nil {
			return err
		}
		resources, err := pulumitest.Run(file.Stack, values, false, stacks.Deploy)
		if err != nil {
			return err
		}
		_, err = out.Write(pulumitest.YAML(pulumitest.Objects(resources)))
		return err
	})
}
