package toolchain

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"ollama-k8s/local/internal/progress"
)

// job is what a recipe needs while it works.
type job struct {
	ctx  context.Context
	log  *progress.Log
	step *progress.Step
	tool tool
}

// Ensure makes what is missing of the named tools, one at a time: each build
// uses all cores already. It is quick when nothing is missing, and asks the
// network only for what is. An interrupted Ensure goes on where it stopped.
func Ensure(ctx context.Context, log *progress.Log, names ...Name) error {
	var problems []error
	for _, n := range names {
		if err := ensure(ctx, log, n); err != nil {
			problems = append(problems, fmt.Errorf("tool %s: %w", n, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(problems...)
}

func ensure(ctx context.Context, log *progress.Log, n Name) error {
	t, err := find(n)
	if err != nil {
		return err
	}
	if n == PulumiRandom {
		if real := installedRandomPlugin(); real != "" {
			log.Printf("the installed random plugin %s is used, not the stand-in", real)
			return nil
		}
	}
	if dir, err := t.recipe.find(t); dir != "" || err != nil {
		return err
	}
	return log.Step("tool "+string(t.name), func(s *progress.Step) error {
		s.Detail("waiting for another run that makes it")
		unlock, err := Lock(ctx, string(t.name))
		if err != nil {
			return err
		}
		defer unlock()
		if dir, err := t.recipe.find(t); dir != "" || err != nil {
			return err // the other run made it
		}
		return fill(t.name, func(dir string) (string, error) {
			return t.recipe.make(job{ctx, log, s, t}, dir)
		})
	})
}

// Path is the absolute path of a finished tool: of its executable, or of the
// folder for HAProxy and Prometheus, whose folder root is an image's root
// (their executables are Command's). It is empty until Ensure has made the
// tool, and stays the same until the tool's sources change.
func Path(n Name) string {
	if n == PulumiRandom {
		if real := installedRandomPlugin(); real != "" {
			return real
		}
	}
	t, err := find(n)
	if err != nil {
		return ""
	}
	dir, err := t.recipe.find(t)
	if err != nil || dir == "" {
		return ""
	}
	switch r := t.recipe.(type) {
	case debianTool:
		return filepath.Join(dir, "root")
	case goTool:
		if n == t.name {
			return filepath.Join(dir, r.executableOf(t))
		}
	}
	return filepath.Join(dir, string(n))
}

// Command is the absolute path of a finished tool's executable for use on this
// machine. Only for what comes out of Debian packages does it differ from
// Path: there it is a wrapper that brings the tool's own libraries. It is
// empty until Ensure has made the tool.
func Command(n Name) string {
	path := Path(n)
	if t, err := find(n); err == nil && path != "" {
		if _, ok := t.recipe.(debianTool); ok {
			return filepath.Join(filepath.Dir(path), string(n))
		}
	}
	return path
}
