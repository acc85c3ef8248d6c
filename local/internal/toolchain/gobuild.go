package toolchain

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// compilerFlags leave out debug information and inlining in all packages: both cost time, and a tool does not need
// them. Kubernetes then compiles in 71 % of the CPU time. A package in Go's build cache serves another build only if
// that has the same flags, so the Makefile's GOFLAGS have these too.
const compilerFlags = "-gcflags=all=-dwarf=false -l"

// goBuild is one run of go build.
type goBuild struct {
	folder  string // of the module
	source  string // package; default the package in the folder
	output  string
	ldflags string
	cgo     bool
	include string // another include folder, "" for none
	overlay string // see go help build, "" for none
}

// run downloads missing modules and builds. It counts the packages: the first build of Kubernetes has 2,800 of them.
func (b goBuild) run(j job) error {
	source := b.source
	if source == "" {
		source = "."
	}
	var flags []string
	if b.overlay != "" {
		flags = append(flags, "-overlay="+b.overlay)
	}
	j.step.Detail("looking up its packages")
	downloads := 0
	var packages int
	err := b.goCommand(j.ctx, append([]string{"list", "-deps"}, append(flags, source)...), func(line string) {
		switch {
		case strings.HasPrefix(line, "go: downloading "):
			downloads++
			j.step.Detail("%s modules downloaded", humanize.Comma(int64(downloads)))
		case !strings.HasPrefix(line, "go: "):
			packages++
		}
	})
	if err != nil {
		return err
	}
	flags = append(flags, "-v", "-trimpath", compilerFlags, "-ldflags=-s -w "+b.ldflags, "-o", b.output, source)
	built := 0
	return b.goCommand(j.ctx, append([]string{"build"}, flags...), func(line string) {
		// -v names the packages that Go compiles, without those in its cache, so the count may end far below the total. A
		// line with a space is a remark of the compiler.
		if !strings.Contains(line, " ") {
			built++
			j.step.Detail("%s packages compiled of at most %s",
				humanize.Comma(int64(built)), humanize.Comma(int64(packages)))
		}
	})
}

// goCommand runs the go command and passes each line of its output to see. Its error ends with the last lines of the
// output.
func (b goBuild) goCommand(ctx context.Context, args []string, see func(line string)) error {
	cmd := goCommand(ctx, b.folder, args...)
	cmd.Env = append(cmd.Env, b.environment()...)
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("starting go %s: %w", args[0], err)
	}
	defer read.Close()
	cmd.Stdout, cmd.Stderr = write, write
	err = cmd.Start()
	_ = write.Close() // the child has its own
	if err != nil {
		return fmt.Errorf("starting go %s: %w", args[0], err)
	}
	const kept = 30 // lines: the compiler's first complaint, with its context
	var last []string
	lines := bufio.NewScanner(read)
	for lines.Scan() {
		see(lines.Text())
		last = append(last, lines.Text())
		last = last[max(0, len(last)-kept):]
	}
	if err := errors.Join(lines.Err(), cmd.Wait()); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("go %s in %s: %w:\n%s",
			strings.Join(args, " "), b.folder, err, strings.Join(last, "\n"))
	}
	return nil
}

func (b goBuild) environment() []string {
	if !b.cgo {
		return []string{"CGO_ENABLED=0"}
	}
	flags := "-O1" // the C++ code takes twice as long at -O2, and tiny models gain nothing
	if b.include != "" {
		flags += " -I" + b.include
	}
	return []string{"CGO_ENABLED=1", "CGO_CFLAGS=" + flags, "CGO_CXXFLAGS=" + flags}
}

// goCommand returns the go command in a module's folder. It ignores the user's Go settings, except for the source of
// modules.
func goCommand(ctx context.Context, folder string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = folder
	// Use the installed Go: another one cannot be downloaded.
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=local", "GOWORK=off", "GOFLAGS=-buildvcs=false", "GOOS=", "GOARCH=")
	// On an interrupt, go stops its compilers and cleans up after them.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// dependencyFolder is the folder with the sources of a module that the module in folder requires. It downloads them if
// necessary.
func dependencyFolder(ctx context.Context, folder, module string) (string, error) {
	for _, args := range [][]string{{"mod", "download", module}, {"list", "-m", "-f", "{{.Dir}}", module}} {
		out, err := goCommand(ctx, folder, args...).Output()
		if err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				err = fmt.Errorf("%w: %s", err, exit.Stderr)
			}
			return "", fmt.Errorf("finding the sources of %s: %w", module, err)
		}
		if dir := strings.TrimSpace(string(out)); filepath.IsAbs(dir) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("finding the sources of %s: %s/go.mod does not require it", module, folder)
}
