// Command plan prints how the memory of a stack's GPUs is used, from the config and models.lock.yaml alone.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"ollama-k8s/stacks"
)

const usage = `Prints, for each pool of a stack, the memory of every model, how many stay loaded together, and the settings that follow.
No cluster, no network and no Pulumi CLI are needed. A config that does not fit is refused with the arithmetic. Figures are GiB.

usage: plan -stack NAME [-config FILE]

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
	flags := flag.NewFlagSet("plan", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	source := stacks.FileFlags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	config, err := source.Load()
	if err != nil {
		return err
	}
	return config.PrintPlan(stdout)
}
