package main

import (
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"ollama-k8s/internal/lockfile"
	"ollama-k8s/internal/modelref"
	"ollama-k8s/internal/registryread"
)

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{gguf: map[string]string{}}
	flags := flag.NewFlagSet("lock", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Func("stack", "`name` of a stack; may be repeated (default: every Pulumi.*.yaml in this "+
		"folder)", func(name string) error {
		o.stacks = append(o.stacks, name)
		return nil
	})
	flags.StringVar(&o.config, "config", "", "read this stack `file` instead of Pulumi.NAME.yaml")
	flags.BoolVar(
		&o.check, "check", false,
		"write nothing; exit with status 1 if the lock lacks an entry or a digest, or the registry has another digest",
	)
	flags.StringVar(
		&o.registry, "registry", "",
		"read from `[http://|https://]HOST[:PORT]/NAMESPACE` instead of the stacks' store.registry; http:// is plain HTTP",
	)
	flags.StringVar(&o.ca, "ca", "", "`file` with PEM certificates to trust in addition to the system's")
	flags.Func("gguf", "`NAME=FILE`: read the figures of a model from a local GGUF file, without a digest; may be "+
		"repeated", func(text string) error {
		name, file, ok := strings.Cut(text, "=")
		if _, err := modelref.Parse(name); err != nil || !ok || file == "" {
			return fmt.Errorf("use NAME=FILE, for instance tiny:latest=tiny.gguf")
		}
		o.gguf[modelref.Normal(name)] = file
		return nil
	})
	flags.StringVar(&o.output, "o", lockfile.Name, "`file` of the lock")
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q: this command takes only flags: see -help", flags.Arg(0))
	case o.config != "" && len(o.stacks) > 1:
		return o, fmt.Errorf(
			"-config %s replaces the file of one stack, but -stack names %d stacks: pass one -stack or none", o.config,
			len(o.stacks),
		)
	}
	return o, nil
}

// client returns a client that trusts the system's CAs and those of -ca.
func (o options) client() (*registryread.Client, error) {
	if o.ca == "" {
		return registryread.New(nil), nil
	}
	text, err := os.ReadFile(o.ca)
	if err != nil {
		return nil, fmt.Errorf("-ca: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf(
			"-ca %s: the file has no certificate: use a PEM file with -----BEGIN CERTIFICATE-----", o.ca,
		)
	}
	return registryread.New(roots), nil
}
