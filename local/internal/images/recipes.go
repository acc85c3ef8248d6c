package images

import (
	"embed"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"ollama-k8s/local/internal/toolchain"
	"ollama-k8s/local/internal/toolchain/sharedlibs"
)

// recipe is the name, the content and the configuration of an image.
type recipe struct {
	ref    string
	tools  []toolchain.Name
	config v1.Config
	fill   func(rootfs) error
}

const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// recipes are the images of a cluster with the stack in it. Each has the same defaults as the public image of the same
// program, so that a manifest fits both. A tag stays the same when Debian's patch release changes, because stack files
// name it.
var recipes = []recipe{
	{
		ref: "localhost/pause:1", tools: []toolchain.Name{toolchain.Pause},
		config: v1.Config{Entrypoint: []string{"/pause"}, User: "65535"},
		fill:   func(r rootfs) error { return r.program(toolchain.Path(toolchain.Pause), "pause") },
	},
	{
		ref: "localhost/coredns:1.14.3", tools: []toolchain.Name{toolchain.CoreDNS},
		config: v1.Config{Entrypoint: []string{"/coredns"}},
		fill:   func(r rootfs) error { return r.program(toolchain.Path(toolchain.CoreDNS), "coredns") },
	},
	{
		ref: "localhost/registry:1", tools: []toolchain.Name{toolchain.Registry},
		config: v1.Config{Entrypoint: []string{"/registry"}, User: "65534"},
		fill:   func(r rootfs) error { return r.program(toolchain.Path(toolchain.Registry), "registry") },
	},
	{
		ref: "localhost/ollama:0.17.4", tools: []toolchain.Name{toolchain.Ollama},
		config: v1.Config{
			Entrypoint: []string{"/bin/ollama"}, Cmd: []string{"serve"},
			Env: []string{searchPath, "OLLAMA_HOST=0.0.0.0:11434", "NVIDIA_VISIBLE_DEVICES=all"},
		},
		fill: func(r rootfs) error {
			if err := r.program(toolchain.Path(toolchain.Ollama), "bin/ollama"); err != nil {
				return err
			}
			// The model store's writer takes a lock, and busybox has no flock.
			if err := r.program("/usr/bin/flock", "usr/bin/flock"); err != nil {
				return err
			}
			return shell(r)
		},
	},
	{
		ref: "localhost/haproxy:3.4", tools: []toolchain.Name{toolchain.HAProxy},
		config: v1.Config{
			// The public image's entry script adds the same two flags.
			Entrypoint: []string{"/usr/sbin/haproxy", "-W", "-db"},
			Cmd:        []string{"-f", "/usr/local/etc/haproxy/haproxy.cfg"},
			Env:        []string{searchPath},
			User:       "99",
			StopSignal: "SIGUSR1", // finish the running requests, then end
		},
		fill: func(r rootfs) error {
			r.folder("var/lib/haproxy", 0o777)
			return r.tree(toolchain.Path(toolchain.HAProxy))
		},
	},
	{
		ref: "localhost/prometheus:3", tools: []toolchain.Name{toolchain.Prometheus},
		config: v1.Config{
			Entrypoint: []string{"/bin/prometheus"},
			Cmd:        []string{"--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"},
			Env:        []string{searchPath},
			User:       "65534",
			WorkingDir: "/prometheus",
		},
		fill: func(r rootfs) error {
			r.folder("prometheus", 0o777)
			r.link("../usr/bin/prometheus", "bin/prometheus")
			r.link("../usr/bin/promtool", "bin/promtool")
			return r.tree(toolchain.Path(toolchain.Prometheus))
		},
	},
	{
		ref: "localhost/oauth2-proxy:7.15.6", tools: []toolchain.Name{toolchain.OAuth2Proxy},
		config: v1.Config{Entrypoint: []string{"/bin/oauth2-proxy"}, Env: []string{searchPath}, User: "65532"},
		fill: func(r rootfs) error {
			if err := r.program(toolchain.Path(toolchain.OAuth2Proxy), "bin/oauth2-proxy"); err != nil {
				return err
			}
			return shell(r)
		},
	},
	{
		ref: "localhost/json-exporter:0.7.0", tools: []toolchain.Name{toolchain.JSONExporter},
		config: v1.Config{Entrypoint: []string{"/bin/json_exporter"}, Env: []string{searchPath}, User: "nobody"},
		fill: func(r rootfs) error {
			if err := r.program(toolchain.Path(toolchain.JSONExporter), "bin/json_exporter"); err != nil {
				return err
			}
			return shell(r)
		},
	},
	{
		ref: "localhost/issuer:1", tools: []toolchain.Name{toolchain.Issuer},
		config: v1.Config{Entrypoint: []string{"/issuer"}, User: "65534"},
		fill:   func(r rootfs) error { return r.program(toolchain.Path(toolchain.Issuer), "issuer") },
	},
	{
		ref: "localhost/pacer:1", tools: []toolchain.Name{toolchain.Pacer},
		config: v1.Config{Entrypoint: []string{"/pacer"}, User: "65534"},
		fill:   func(r rootfs) error { return r.program(toolchain.Path(toolchain.Pacer), "pacer") },
	},
	{
		ref:    "localhost/toolbox:1",
		config: v1.Config{Cmd: []string{"/bin/sh"}, Env: []string{searchPath}},
		fill:   shell,
	},
}

// extras are the images of software for trials next to the stack.
var extras = []recipe{
	{
		ref: "localhost/keda:2.21.0", tools: []toolchain.Name{toolchain.KEDA, toolchain.KEDAAdapter},
		// KEDA publishes an image for each of the two programs. A manifest names the program in any case.
		config: v1.Config{Entrypoint: []string{"/keda"}, User: "65532"},
		fill: func(r rootfs) error {
			if err := r.program(toolchain.Path(toolchain.KEDA), "keda"); err != nil {
				return err
			}
			return r.program(toolchain.Path(toolchain.KEDAAdapter), "keda-adapter")
		},
	},
	{
		ref: "localhost/prometheus-adapter:0.12.0", tools: []toolchain.Name{toolchain.PrometheusAdapter},
		config: v1.Config{Entrypoint: []string{"/adapter"}, User: "65534"},
		fill:   func(r rootfs) error { return r.program(toolchain.Path(toolchain.PrometheusAdapter), "adapter") },
	},
}

//go:embed rootfs
var skeleton embed.FS

// root returns the root file system of the image: the files that any program expects of Linux, and the recipe's own.
func (r recipe) root() (rootfs, error) {
	root := rootfs{}
	for _, folder := range []string{"dev", "etc", "proc", "run", "sys", "var/run"} {
		root.folder(folder, 0o755)
	}
	root.folder("root", 0o700)
	root.folder("tmp", 0o777|fs.ModeSticky)
	for _, name := range []string{"passwd", "group", "nsswitch.conf"} {
		content, err := skeleton.ReadFile("rootfs/" + name)
		if err != nil {
			return nil, fmt.Errorf("reading an embedded file: %w", err)
		}
		root.text(content, "etc/"+name)
	}
	root.file("/etc/ssl/certs/ca-certificates.crt", "etc/ssl/certs/ca-certificates.crt", 0o644)
	return root, r.fill(root)
}

// shell adds /bin/sh and the usual commands. busybox's shell behaves like dash, the shell of the public images.
func shell(r rootfs) error {
	const busybox = "/bin/busybox"
	needs, err := sharedlibs.Of("/", busybox)
	if err != nil {
		return err
	}
	if needs.Loader != "" {
		return fmt.Errorf("%s needs libraries: replace the Debian package busybox with busybox-static", busybox)
	}
	list, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("asking busybox for its commands: %w", err)
	}
	for command := range strings.FieldsSeq(string(list)) {
		if command != "busybox" {
			r.link("busybox", "bin/"+command)
		}
	}
	r.file(busybox, "bin/busybox", 0o755)
	return nil
}
