package toolchain

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"ollama-k8s/local/internal/progress"
)

// job is the context of a recipe at work.
type job struct {
	ctx  context.Context
	log  *progress.Log
	step *progress.Step
	tool tool
}

// Ensure builds the missing ones of the named tools, one at a time, because each build uses all cores. It is quick if
// nothing is missing, and uses the network only for what is. After an interruption, the next Ensure continues.
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
			log.Printf("using the installed random plugin %s instead of the stand-in", real)
			return nil
		}
	}
	if dir, err := t.recipe.find(t); dir != "" || err != nil {
		return err
	}
	return log.Step("tool "+string(t.name), func(s *progress.Step) error {
		s.Detail("waiting for another run that builds it")
		unlock, err := Lock(ctx, string(t.name))
		if err != nil {
			return err
		}
		defer unlock()
		if dir, err := t.recipe.find(t); dir != "" || err != nil {
			return err // the other run built it
		}
		return fill(t.name, func(dir string) (string, error) {
			return t.recipe.make(job{ctx, log, s, t}, dir)
		})
	})
}

// Path returns the absolute path of a finished tool: of its executable or, for HAProxy and Prometheus, of its folder
// root, which is an image's root (Command returns their executables). It is empty until Ensure has built the tool, and
// stays the same until the tool's sources change.
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

// Command returns the absolute path of a finished tool's executable for use on this machine. It differs from Path only
// for tools from Debian packages: there it is a wrapper that uses the tool's own libraries. It is empty until Ensure
// has built the tool.
func Command(n Name) string {
	path := Path(n)
	if t, err := find(n); err == nil && path != "" {
		if _, ok := t.recipe.(debianTool); ok {
			return filepath.Join(filepath.Dir(path), string(n))
		}
	}
	return path
}
