package toolchain

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ollama-k8s/local/internal/progress"
)

func buildSample(t *testing.T, b goBuild, files map[string]string) (goBuild, error) {
	t.Helper()
	b.folder = t.TempDir()
	b.output = filepath.Join(t.TempDir(), "sample")
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(b.folder, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	log := progress.New(t.Output())
	return b, log.Step("sample", func(s *progress.Step) error {
		return b.run(job{ctx: t.Context(), log: log, step: s})
	})
}

func TestABuildSetsWhatTheLinkerIsToldAndMakesAStaticProgram(t *testing.T) {
	b, err := buildSample(t, goBuild{ldflags: "-X main.version=1.2.3"}, map[string]string{
		"go.mod":  "module sample\n\ngo 1.26\n",
		"main.go": "package main\n\nvar version string\n\nfunc main() { print(version) }\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(b.output).CombinedOutput()
	if err != nil || string(out) != "1.2.3" {
		t.Errorf("it says %q (%v), want 1.2.3", out, err)
	}
}

func TestAFailedBuildTellsWhereAndWhatTheCompilerSaid(t *testing.T) {
	b, err := buildSample(t, goBuild{}, map[string]string{
		"go.mod":  "module sample\n\ngo 1.26\n",
		"main.go": "package main\n\nfunc main() { undefined() }\n",
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{b.folder, "undefined: undefined"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in the error: %v", want, err)
		}
	}
}

func TestAnotherToolchainIsNeverDownloaded(t *testing.T) {
	_, err := buildSample(t, goBuild{}, map[string]string{
		"go.mod":  "module sample\n\ngo 9.99\n",
		"main.go": "package main\n\nfunc main() {}\n",
	})
	if err == nil || !strings.Contains(err.Error(), "requires go >= 9.99") {
		t.Errorf("error %v, want Go's refusal", err)
	}
}
