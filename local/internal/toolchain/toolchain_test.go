package toolchain

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ollama-k8s/local/internal/progress"
)

func TestAToolsKeyChangesWithWhatItIsMadeOfAndWithNothingElse(t *testing.T) {
	kept := map[string]string{"go.mod": "module m\n", "go.sum": "sums\n", "main.go": "package main\n"}
	base := goTool{ldflags: "-X a=1"}
	original := goToolKey(t, base, kept)
	for _, test := range []struct {
		name    string
		recipe  goTool
		file    string
		changes bool
	}{
		{"a source file", base, "main.go", true},
		{"a required version", base, "go.mod", true},
		{"a checksum", base, "go.sum", true},
		{"a linker flag", goTool{ldflags: "-X a=2"}, "", true},
		{"the use of cgo", goTool{ldflags: "-X a=1", cgo: true}, "", true},
		{"an embedded file's origin",
			goTool{ldflags: "-X a=1", embeds: embeds{files: map[string]string{"a": "b"}}}, "", true},
		{"a test", base, "main_test.go", false},
		{"a note", base, "README.md", false},
		{"nothing", base, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			files := map[string]string{}
			for name, content := range kept {
				files[name] = content
			}
			if test.file != "" {
				files[test.file] = "changed\n"
			}
			if key := goToolKey(t, test.recipe, files); (key != original) != test.changes {
				t.Errorf("key %s, original %s: want a change: %t", key, original, test.changes)
			}
		})
	}
}

func goToolKey(t *testing.T, g goTool, files map[string]string) string {
	t.Helper()
	module := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(module, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	key, err := g.key(tool{name: "x", version: "1"}, module)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// scripted is a recipe whose make calls a function.
type scripted struct{ run func(dir string) error }

func (s scripted) find(t tool) (string, error) {
	final, err := t.folder(t.version, "key")
	if err != nil || !present(final) {
		return "", err
	}
	return final, nil
}

func (s scripted) make(j job, dir string) (string, error) {
	if err := s.run(dir); err != nil {
		return "", err
	}
	return j.tool.folder(j.tool.version, "key")
}

// withTool replaces all tools with one, and the user's cache with an empty one.
func withTool(t *testing.T, run func(dir string) error) Name {
	t.Helper()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	original := tools
	t.Cleanup(func() { tools = original })
	tools = []tool{{"sample", "1", scripted{run}}}
	return "sample"
}

func TestAFinishedToolIsMadeOnceAndHasItsPathFromThenOn(t *testing.T) {
	times := 0
	name := withTool(t, func(dir string) error {
		times++
		return os.WriteFile(filepath.Join(dir, "sample"), nil, 0o755)
	})
	if path := Path(name); path != "" {
		t.Errorf("path %q before it was made, want none", path)
	}
	for range 2 {
		if err := Ensure(context.Background(), progress.New(t.Output()), name); err != nil {
			t.Fatal(err)
		}
	}
	if times != 1 {
		t.Errorf("it was built %d times, want once", times)
	}
	if _, err := os.Stat(Path(name)); err != nil {
		t.Errorf("nothing is at its path: %v", err)
	}
}

func TestAnInterruptedBuildLeavesNothingAndTheNextRunMakesTheTool(t *testing.T) {
	interrupted := errors.New("interrupted")
	fail := true
	name := withTool(t, func(dir string) error {
		if err := os.WriteFile(filepath.Join(dir, "sample"), nil, 0o755); err != nil {
			return err
		}
		if fail {
			return interrupted
		}
		return nil
	})
	log := progress.New(t.Output())
	err := Ensure(context.Background(), log, name)
	if !errors.Is(err, interrupted) || !strings.Contains(err.Error(), "sample") {
		t.Errorf("error %v, want the recipe's with the tool's name", err)
	}
	cache, err := CacheFolder()
	if err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(cache, "tools"))
	if err != nil || len(left) != 0 {
		t.Errorf("left %v (%v), want nothing", left, err)
	}
	fail = false
	if err := Ensure(context.Background(), log, name); err != nil {
		t.Errorf("the next run: %v", err)
	}
}

func TestAnUnknownToolIsRefusedWithTheNamesThatThereAre(t *testing.T) {
	err := Ensure(context.Background(), progress.New(t.Output()), "kubectx")
	if err == nil || !strings.Contains(err.Error(), `"kubectx"`) || !strings.Contains(err.Error(), "kubectl") {
		t.Errorf("error %v, want one that names kubectx and what there is", err)
	}
}

func TestOfSeveralUnpackedReleasesTheLatestIsTaken(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	d := debianTool{packages: []string{"haproxy"}, series: "3.4.*"}
	h := tool{"haproxy", "3.4", d}
	for i, version := range []string{"3.4.10-1", "3.4.9-1"} {
		dir, err := h.folder(version, d.key())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		unpacked := time.Now().Add(-time.Duration(i) * time.Hour)
		if err := os.Chtimes(dir, unpacked, unpacked); err != nil {
			t.Fatal(err)
		}
	}
	found, err := d.find(h)
	if err != nil || !strings.Contains(found, "haproxy-3.4.10-1-") {
		t.Errorf("found %q (%v), want the one of 3.4.10, unpacked last", found, err)
	}
}

func TestAnInstalledRandomPluginIsPreferredAndTheStandInIsNotTakenForOne(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", filepath.Join(home, "cache"))
	t.Setenv("PULUMI_HOME", filepath.Join(home, "pulumi"))
	executable := func(folder string) string {
		path := filepath.Join(home, folder, "pulumi-resource-random")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	standIn := executable("cache/ollama-k8s/tools/pulumi-random-4.18.2-0123/")
	t.Setenv("PATH", filepath.Dir(standIn))
	if found := installedRandomPlugin(); found != "" {
		t.Errorf("mistook %s for an installed plugin", found)
	}
	plugin := executable("pulumi/plugins/resource-random-v4.18.2")
	if found := installedRandomPlugin(); found != plugin {
		t.Errorf("found %q among Pulumi's plugins, want %q", found, plugin)
	}
	onPath := executable("bin")
	t.Setenv("PATH", filepath.Dir(onPath))
	if found := installedRandomPlugin(); found != onPath {
		t.Errorf("found %q on PATH, want %q", found, onPath)
	}
}

func TestEachToolHasSourcesAndANameOfItsOwn(t *testing.T) {
	seen := map[Name]bool{}
	for _, n := range Names() {
		if seen[n] {
			t.Errorf("there are two tools %s", n)
		}
		seen[n] = true
	}
	for _, tool := range tools {
		if g, ok := tool.recipe.(goTool); ok {
			if _, err := g.folderOf(tool); err != nil {
				t.Errorf("tool %s: %v", tool.name, err)
			}
		}
	}
}
