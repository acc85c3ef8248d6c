package sharedlibs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestADynamicProgramRunsWithNothingButWhatWasFound(t *testing.T) {
	const program = "/bin/ls"
	needs, err := Of("/", program)
	if err != nil {
		t.Fatal(err)
	}
	if needs.Loader == "" || len(needs.Libraries) == 0 {
		t.Fatalf("got %+v, want a loader and libraries", needs)
	}
	root := t.TempDir()
	for _, path := range append([]string{needs.Loader}, needs.Libraries...) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, filepath.Base(path)), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	linker := filepath.Join(root, filepath.Base(needs.Loader))
	out, err := exec.Command(linker, "--inhibit-cache", "--library-path", root, "--list", program).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "not found") || strings.Contains(line, "=>") && !strings.Contains(line, root) {
			t.Errorf("a library comes from elsewhere: %s", line)
		}
	}
}

func TestAMissingLibraryIsNamedWithTheProgramThatNeedsIt(t *testing.T) {
	root := t.TempDir()
	content, err := os.ReadFile("/bin/ls")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "ls"), content, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = Of(root, "/ls")
	if err == nil || !strings.Contains(err.Error(), "/ls needs library lib") {
		t.Errorf("error %v, want one that names the program and the library", err)
	}
}

func TestAFileThatIsNoProgramIsRefused(t *testing.T) {
	if _, err := Of("/", "/etc/passwd"); err == nil {
		t.Error("no error")
	}
}
