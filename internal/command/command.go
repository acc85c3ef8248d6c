// Package command is what the commands that read a stack file have in common.
package command

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"ollama-k8s/stacks"
)

// Main runs a command that takes a stack file, by the flags -stack and -config, and prints to standard output. It exits with 1 after an error.
func Main(name, usage string, run func(file *stacks.File, out io.Writer) error) {
	err := parseAndRun(name, usage, os.Args[1:], run)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func parseAndRun(name, usage string, args []string, run func(*stacks.File, io.Writer) error) error {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	file := stacks.FileFlags(flags)
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), "%s\nusage: %s -stack NAME [-config FILE]\n\n", usage, name)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: the command takes flags only, see -help", flags.Arg(0))
	}
	return run(file, os.Stdout)
}
