package images

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"ollama-k8s/local/internal/progress"
	"ollama-k8s/local/internal/toolchain"
)

func sampleRoot(t *testing.T) (rootfs, string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("program"), 0o700); err != nil {
		t.Fatal(err)
	}
	root := rootfs{}
	root.file(program, "/usr/bin/program", 0o755)
	root.text([]byte("root\n"), "etc/passwd")
	root.link("usr/bin/program", "program")
	root.folder("tmp", 0o777|fs.ModeSticky)
	return root, program
}

func TestAnExtraImageIsMadeForItsToolsAndForNoPlainCluster(t *testing.T) {
	for tool, want := range map[toolchain.Name]int{
		toolchain.KEDAAdapter: 1, toolchain.PrometheusAdapter: 1, toolchain.Kwok: 0, toolchain.Ollama: 0,
	} {
		if got := len(extrasWith([]toolchain.Name{tool})); got != want {
			t.Errorf("%d extra images with %s, want %d", got, tool, want)
		}
	}
	for _, r := range recipes {
		for _, e := range extras {
			if r.ref == e.ref {
				t.Errorf("%s is not an extra: a plain cluster gets it", e.ref)
			}
		}
	}
}

func TestTheSameInputsMakeTheSameImage(t *testing.T) {
	var digests []v1.Hash
	for range 2 {
		root, program := sampleRoot(t) // in another folder, at another time
		past := time.Now().Add(-time.Duration(len(digests)) * time.Hour)
		if err := os.Chtimes(program, past, past); err != nil {
			t.Fatal(err)
		}
		image, err := build(t.TempDir(), root, v1.Config{Entrypoint: []string{"/program"}})
		if err != nil {
			t.Fatal(err)
		}
		digest, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, digest)
	}
	if digests[0] != digests[1] {
		t.Errorf("digests %s and %s, want the same", digests[0], digests[1])
	}
}

func TestALayerIsSortedAndHasEachFolderBeforeWhatLiesInIt(t *testing.T) {
	root, _ := sampleRoot(t)
	var layer bytes.Buffer
	if err := root.write(&layer); err != nil {
		t.Fatal(err)
	}
	want := []tar.Header{
		{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644, Size: 5},
		{Name: "program", Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: "usr/bin/program"},
		{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777},
		{Name: "usr/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "usr/bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "usr/bin/program", Typeflag: tar.TypeReg, Mode: 0o755, Size: 7},
	}
	archive := tar.NewReader(&layer)
	for _, w := range want {
		got, err := archive.Next()
		if err != nil {
			t.Fatalf("reading %s: %v", w.Name, err)
		}
		if got.Name != w.Name || got.Typeflag != w.Typeflag || got.Mode != w.Mode || got.Size != w.Size ||
			got.Linkname != w.Linkname || got.Uid != 0 || got.Gid != 0 || !got.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("got %+v, want %+v of root at time 0", *got, w)
		}
	}
	if extra, err := archive.Next(); err == nil {
		t.Errorf("unexpected entry: %s", extra.Name)
	}
}

func TestAnArchiveIsWrittenAnewOnlyWhenItsInputsChange(t *testing.T) {
	root, program := sampleRoot(t)
	shelf := t.TempDir()
	sample := recipe{
		ref:    "localhost/sample:1",
		config: v1.Config{StopSignal: "SIGUSR1", User: "99"},
		fill: func(r rootfs) error {
			for to, e := range root {
				r[to] = e
			}
			return nil
		},
	}
	log := progress.New(t.Output())
	ensure := func() string {
		archive, err := sample.ensure(log, shelf)
		if err != nil {
			t.Fatal(err)
		}
		return archive
	}
	first := ensure()
	if again := ensure(); again != first {
		t.Errorf("nothing changed, but the archive is %s after %s", again, first)
	}
	if err := os.WriteFile(program, []byte("another program"), 0o700); err != nil {
		t.Fatal(err)
	}
	changed := ensure()
	if changed == first {
		t.Error("the program changed and the archive did not")
	}
	tag, err := name.NewTag(sample.ref)
	if err != nil {
		t.Fatal(err)
	}
	image, err := tarball.ImageFromPath(changed, &tag)
	if err != nil {
		t.Fatal(err)
	}
	described, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c := described.Config; c.StopSignal != "SIGUSR1" || c.User != "99" ||
		described.OS != "linux" || !described.Created.IsZero() {
		t.Errorf("got %+v, want the recipe's configuration and no time", described)
	}
	left, err := filepath.Glob(filepath.Join(shelf, ".*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}
