package toolchain

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"ollama-k8s/local/internal/progress"
)

// machinePackages are the Debian packages, of the machine's own release, that the embedded cluster runs with. A tool's
// recipe has the packages that its build needs.
var machinePackages = []string{
	"busybox-static",  // the shell in the images
	"ca-certificates", // for the images
	"containerd", "runc", "containernetworking-plugins",
	"conntrack", "iptables", "nftables", // kube-proxy
	"iproute2", "kmod", "mount", "util-linux",
}

// EnsureDebian installs the missing Debian packages for running the cluster and building all tools. It starts none of
// their services.
func EnsureDebian(ctx context.Context, log *progress.Log) error {
	wanted := machinePackages
	for _, t := range tools {
		if g, ok := t.recipe.(goTool); ok {
			wanted = append(wanted[:len(wanted):len(wanted)], g.needs...)
		}
	}
	missing, err := missingPackages(ctx, wanted)
	if err != nil || len(missing) == 0 {
		return err
	}
	return log.Step("Debian packages", func(s *progress.Step) error {
		return install(ctx, s, missing)
	})
}

// ensurePackages installs the missing ones of some packages, as part of a step.
func ensurePackages(ctx context.Context, s *progress.Step, wanted []string) error {
	missing, err := missingPackages(ctx, wanted)
	if err != nil || len(missing) == 0 {
		return err
	}
	return install(ctx, s, missing)
}

func missingPackages(ctx context.Context, wanted []string) ([]string, error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	if _, err := os.Stat("/etc/debian_version"); err != nil {
		return nil, fmt.Errorf("the machine is not Debian (%w): the embedded cluster needs its packages %s",
			err, strings.Join(wanted, " "))
	}
	args := append([]string{"--show", "--showformat=${db:Status-Status} ${binary:Package}\n"}, wanted...)
	// dpkg-query exits with 1 if it does not know a package, but lists the others.
	out, err := exec.CommandContext(ctx, "dpkg-query", args...).Output()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
		return nil, fmt.Errorf("asking dpkg for installed packages: %w", err)
	}
	installed := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "installed "); ok {
			name, _, _ = strings.Cut(name, ":") // the architecture
			installed[name] = true
		}
	}
	var missing []string
	for _, name := range wanted {
		if !installed[name] {
			missing = append(missing, name)
		}
	}
	return missing, nil
}

// install downloads the package lists only if the machine's own do not work: a fresh machine has none, and old ones are
// outdated.
func install(ctx context.Context, s *progress.Step, packages []string) error {
	list := strings.Join(packages, " ")
	if os.Geteuid() != 0 {
		return fmt.Errorf("these Debian packages are missing, and this user is not root: run: sudo apt-get install %s", list)
	}
	allowStarts, err := forbidStarts()
	if err != nil {
		return err
	}
	defer allowStarts()
	s.Detail("installing %s", list)
	args := append([]string{"install", "--yes", "--no-install-recommends"}, packages...)
	if aptGet(ctx, nil, args...) == nil {
		return nil
	}
	s.Detail("updating the lists of packages")
	if err := aptGet(ctx, nil, "update"); err != nil {
		return err
	}
	s.Detail("installing %s", list)
	return aptGet(ctx, nil, args...)
}

// policyFile tells Debian's installation scripts whether they may start a service.
const policyFile = "/usr/sbin/policy-rc.d"

//go:embed debian/policy-rc.d
var policy []byte

// forbidStarts prevents the start of installed services, because the cluster runs its own containerd. It does not
// replace a policy that the machine already has.
func forbidStarts() (undo func(), err error) {
	file, err := os.OpenFile(policyFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if errors.Is(err, os.ErrExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("preventing the start of services: %w", err)
	}
	_, err = file.Write(policy)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("writing %s: %w", policyFile, err)
	}
	return func() { _ = os.Remove(policyFile) }, nil
}

// aptGet runs apt-get with additional environment variables. Its error ends with the last lines of apt-get's output.
func aptGet(ctx context.Context, environment []string, args ...string) error {
	// Another run of apt-get on the machine may take its time.
	options := []string{"--quiet", "--option=DPkg::Lock::Timeout=600"}
	cmd := exec.CommandContext(ctx, "apt-get", append(options, args...)...)
	cmd.Env = append(append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"), environment...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		last := lines[max(0, len(lines)-12):]
		return fmt.Errorf("apt-get %s: %w:\n%s", strings.Join(args, " "), err, strings.Join(last, "\n"))
	}
	return nil
}
