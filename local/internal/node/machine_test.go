//go:build linux

package node

import (
	"archive/tar"
	"bufio"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestHierarchiesOfBothKindsAreFound(t *testing.T) {
	const mounts = `22 1 254:0 / / rw - ext4 /dev/vda rw
30 22 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
`
	found, err := parseHierarchies(bufio.NewScanner(strings.NewReader(mounts)))
	if err != nil {
		t.Fatal(err)
	}
	want := []hierarchy{{path: "/sys/fs/cgroup/cpu"}, {path: "/sys/fs/cgroup/unified", unified: true}}
	if !slices.Equal(found, want) {
		t.Errorf("found %v", found)
	}
}

func TestMissingControllersAreNamed(t *testing.T) {
	err := checkCgroups([]hierarchy{
		{path: "/sys/fs/cgroup/cpu,cpuacct"}, {path: "/sys/fs/cgroup/memory"}, {path: "/sys/fs/cgroup/pids"},
	})
	if onlyUnified() {
		t.Skip("the machine has cgroup v2: the check reads the machine's own controllers")
	}
	if err == nil || !strings.Contains(err.Error(), "cpuset") || strings.Contains(err.Error(), "pids") {
		t.Errorf("error %v", err)
	}
}

func TestRangesOverlap(t *testing.T) {
	tests := []struct {
		name, a, b string
		want       bool
	}{
		{"a range inside another", "10.0.0.0/8", "10.88.0.0/16", true},
		{"a range around another", "10.88.3.0/24", "10.88.0.0/16", true},
		{"neighbours", "10.87.0.0/16", "10.88.0.0/16", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			parse := func(s string) *net.IPNet { return mustParse(t, s) }
			if got := overlap(parse(test.a), parse(test.b)); got != test.want {
				t.Errorf("overlap is %v", got)
			}
		})
	}
}

func TestAStateFolderThatTheNodesWouldHideIsRefused(t *testing.T) {
	for root, fine := range map[string]bool{
		"/run/x": false, "/var/lib/kubelet": false, "/var/lib/cluster": true, "/running/x": true, "/root/.local/state": true,
	} {
		if err := checkState(root); (err == nil) != fine {
			t.Errorf("%s: %v", root, err)
		}
	}
}

func TestArchiveIDs(t *testing.T) {
	tests := []struct {
		name     string
		manifest string
		want     string
	}{
		{"a configuration named by its digest", `[{"Config":"sha256:abc"}]`, "sha256:abc"},
		{"a configuration named by its file", `[{"Config":"abc.json"}]`, "sha256:abc"},
		{"two images", `[{"Config":"a"},{"Config":"b"}]`, ""},
		{"no manifest", "", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image.tar")
			file, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			archive := tar.NewWriter(file)
			add := func(name, text string) {
				if err := archive.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Mode: 0o644}); err != nil {
					t.Fatal(err)
				}
				if _, err := archive.Write([]byte(text)); err != nil {
					t.Fatal(err)
				}
			}
			add("layer.tar", strings.Repeat("x", 10_000))
			if test.manifest != "" {
				add("manifest.json", test.manifest)
			}
			if err := archive.Close(); err != nil {
				t.Fatal(err)
			}
			got, err := archiveID(path)
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("%q, %v", got, err)
			}
			file.Close()
		})
	}
}

func TestTheEndOfALogIsShown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if got := lastLines(path, 2); got != "" {
		t.Errorf("without a file: %q", got)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("old\n", 10_000)+"one\ntwo\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := lastLines(path, 2); got != "  one\n  two" {
		t.Errorf("%q", got)
	}
}

func TestOnlyFoldersThatWereMadeAreReported(t *testing.T) {
	root := t.TempDir()
	made, err := makeFolders(filepath.Join(root, "a", "b"))
	if err != nil || !slices.Equal(made, []string{filepath.Join(root, "a"), filepath.Join(root, "a", "b")}) {
		t.Errorf("%v, %v", made, err)
	}
	if made, err = makeFolders(filepath.Join(root, "a", "b")); err != nil || len(made) != 0 {
		t.Errorf("again: %v, %v", made, err)
	}
}
