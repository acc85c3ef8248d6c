// Command lock writes models.lock.yaml from the registries that the stacks pull from.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"ollama-k8s/internal/lockfile"
)

const usage = `Writes models.lock.yaml: for each model that a stack pulls, its digest and the figures from which its
memory is planned. Downloads only the manifest, the template and the header of the weights. A model
keeps its entry if its digest has not changed, or if no stack names it any more. Proxies come from the
environment. You need neither a cluster nor the Pulumi CLI.

usage: lock [-stack NAME]... [-config FILE] [-check] [-registry URL] [-ca FILE] [-gguf NAME=FILE]... [-o FILE]

`

// options holds the values of the flags.
type options struct {
	stacks   []string
	config   string
	check    bool
	registry string
	ca       string
	gguf     map[string]string
	output   string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	models, err := o.models()
	if err != nil {
		return err
	}
	client, err := o.client()
	if err != nil {
		return err
	}
	lock, err := read(o.output)
	if err != nil {
		return err
	}
	l := &locker{lock: lock, client: client, check: o.check, file: o.output, progress: stderr}
	failed := l.all(ctx, models)
	if !o.check {
		changed, err := lock.Write(o.output)
		switch {
		case err != nil:
			failed = errors.Join(failed, err)
		case changed:
			fmt.Fprintln(stderr, o.output+": written")
		default:
			fmt.Fprintln(stderr, o.output+": unchanged")
		}
	}
	return failed
}

// read returns the lock in a file. A missing file is an empty lock.
func read(path string) (*lockfile.Lock, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return lockfile.Parse(text)
}
