// Command render prints the Kubernetes objects of a stack as YAML, secrets redacted, with no cluster and no Pulumi CLI.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"ollama-k8s/internal/pulumitest"
	"ollama-k8s/stacks"
)

const usage = `Prints the Kubernetes objects of a stack as YAML, secrets redacted. No cluster and no Pulumi CLI are needed.
Generated names end in a hash of the object's content, where Pulumi adds a random suffix.

usage: render -stack NAME [-config FILE]

`

func main() {
	err := run(os.Args[1:], os.Stdout, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("render", flag.ContinueOnError)
	flags.SetOutput(stderr)
	source := stacks.FileFlags(flags)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	values, err := source.Values()
	if err != nil {
		return err
	}
	// The same check that Deploy begins with, without the engine's wrapping around its message.
	if _, err := stacks.Load(values, os.DirFS(".")); err != nil {
		return err
	}
	resources, err := pulumitest.Run(source.Stack, values, false, stacks.Deploy)
	if err != nil {
		return err
	}
	_, err = stdout.Write(pulumitest.YAML(pulumitest.Objects(resources)))
	return err
}
