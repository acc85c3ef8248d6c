// Package command is what the commands that read a stack file have in common.
package command

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

// File is the stack file that a command was told of.
type File struct{ Stack, Path string }

// Main runs a command that takes a stack file, by the flags -stack and -config, and prints to standard output. It exits
// with 1 after an error.
func Main(name, usage string, run func(file File, out io.Writer) error) {
	err := parseAndRun(name, usage, os.Args[1:], run)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func parseAndRun(name, usage string, args []string, run func(File, io.Writer) error) error {
	var file File
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.StringVar(&file.Stack, "stack", "", "the stack's `name`")
	flags.StringVar(&file.Path, "config", "", "a stack `file` to use in place of Pulumi.NAME.yaml")
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
	if file.Stack == "" {
		return errors.New("which stack? give -stack NAME, or STACK=NAME to make")
	}
	if file.Path == "" {
		file.Path = "Pulumi." + file.Stack + ".yaml"
	}
	return run(file, os.Stdout)
}
