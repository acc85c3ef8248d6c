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
	flags.Func("stack", "a stack's `name`; may be given several times (default: every Pulumi.*.yaml "+
		"here)", func(name string) error {
		o.stacks = append(o.stacks, name)
		return nil
	})
	flags.StringVar(&o.config, "config", "", "a stack `file` to use in place of Pulumi.NAME.yaml")
	flags.BoolVar(
		&o.check, "check", false,
		"write nothing; exit 1 where the lock lacks an entry or a digest, or the registry has another one",
	)
	flags.StringVar(
		&o.registry, "registry", "",
		"ask `[http://|https://]HOST[:PORT]/NAMESPACE` in place of the stacks' store.registry; http:// is plain HTTP",
	)
	flags.StringVar(&o.ca, "ca", "", "a `file` of certificates, PEM, to trust beside the system's")
	flags.Func("gguf", "`NAME=FILE`: take the figures of a model from a GGUF file here, with no digest; may be given "+
		"several times", func(text string) error {
		name, file, ok := strings.Cut(text, "=")
		if _, err := modelref.Parse(name); err != nil || !ok || file == "" {
			return fmt.Errorf("give NAME=FILE, for instance tiny:latest=tiny.gguf")
		}
		o.gguf[modelref.Normal(name)] = file
		return nil
	})
	flags.StringVar(&o.output, "o", lockfile.Name, "the lock's `file`")
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q: the command takes flags only, see -help", flags.Arg(0))
	case o.config != "" && len(o.stacks) > 1:
		return o, fmt.Errorf(
			"-config %s stands for one stack, and -stack names %d: give one of them", o.config, len(o.stacks),
		)
	}
	return o, nil
}

// client trusts the system's authorities and those of -ca.
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
			"-ca %s: there is no certificate in it: give a PEM file, with -----BEGIN CERTIFICATE-----", o.ca,
		)
	}
	return registryread.New(roots), nil
}
