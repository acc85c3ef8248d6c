// Package command holds the flags and the error handling of the commands that read a stack file.
package command

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

// File names a stack and the path of its file.
type File struct{ Stack, Path string }

// Main parses the flags -stack and -config and calls run, which prints to standard output. After an error it exits with
// status 1.
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
	flags.StringVar(&file.Stack, "stack", "", "`name` of the stack")
	flags.StringVar(&file.Path, "config", "", "read this stack `file` instead of Pulumi.NAME.yaml")
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), "%s\nusage: %s -stack NAME [-config FILE]\n\n", usage, name)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: this command takes only flags: see -help", flags.Arg(0))
	}
	if file.Stack == "" {
		return errors.New("-stack is missing: pass -stack NAME, or STACK=NAME to make")
	}
	if file.Path == "" {
		file.Path = "Pulumi." + file.Stack + ".yaml"
	}
	return run(file, os.Stdout)
}
