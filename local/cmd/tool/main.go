// Command tool builds a tool of the embedded cluster if it is missing and prints its path, so that a script can run it:
//
//	$(go -C local run ./cmd/tool kubectl) get pods
//
// Several names print several lines. `tool packages` installs the Debian packages that the cluster needs. `tool images`
// builds its images and prints their references. Progress goes to standard error.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"ollama-k8s/local/internal/images"
	"ollama-k8s/local/internal/progress"
	"ollama-k8s/local/internal/toolchain"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, "usage: tool NAME…\n\nNAME is packages, images, or one of\n")
		for _, n := range toolchain.Names() {
			fmt.Fprintln(os.Stderr, "  "+n)
		}
		os.Exit(2)
	}
	log := progress.New(os.Stderr)
	for _, name := range os.Args[1:] {
		if err := provide(ctx, log, name); err != nil {
			fmt.Fprintln(os.Stderr, "tool:", err)
			os.Exit(1)
		}
	}
}

func provide(ctx context.Context, log *progress.Log, name string) error {
	switch name {
	case "packages":
		return toolchain.EnsureDebian(ctx, log)
	case "images":
		made, err := images.Ensure(ctx, log)
		for _, image := range made {
			fmt.Println(image.Ref, image.Archive)
		}
		return err
	}
	if err := toolchain.Ensure(ctx, log, toolchain.Name(name)); err != nil {
		return err
	}
	fmt.Println(toolchain.Command(toolchain.Name(name)))
	return nil
}
