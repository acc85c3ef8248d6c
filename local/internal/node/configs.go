package node

import (
	"bytes"
	"embed"
	"fmt"
	"strings"
	"text/template"
)

//go:embed configs/*.tmpl
var configFiles embed.FS

var configTemplates = template.Must(template.New("").Option("missingkey=error").ParseFS(configFiles, "configs/*.tmpl"))

// settings are the values for the templates under configs/.
type settings struct {
	Root, PKI, Kubeconfigs string
	Config, Data           string // the member's folders for configuration and for data
	Cgroup                 string
	Member                 member
	Members                []member
	Domain, DNS            string
	PodRange, PodGateway   string
	ServiceRange           string
}

func (l layout) settings(m member) settings {
	return settings{
		Root: l.root, PKI: l.pki(), Kubeconfigs: l.path("kubeconfigs"),
		Config: l.path("config", m.Name), Data: l.node(m), Cgroup: cgroupName,
		Member: m, Members: members, Domain: clusterDomain, DNS: dnsService,
		PodRange: podRange, PodGateway: podGateway, ServiceRange: serviceRange,
	}
}

// memberFiles maps each node's configuration files to their templates.
var memberFiles = map[string]string{
	"containerd.toml": "containerd.toml.tmpl",
	"kubelet.yaml":    "kubelet.yaml.tmpl",
	"kube-proxy.yaml": "kube-proxy.yaml.tmpl",
	"resolv.conf":     "resolv.conf.tmpl",
	// The number makes it the first file in order, which is the one that containerd reads.
	"cni/10-pods.conflist": "cni.conflist.tmpl",
}

func (l layout) writeConfigs() error {
	for _, m := range members {
		for file, name := range memberFiles {
			data, err := render(name, l.settings(m))
			if err != nil {
				return err
			}
			if err := writeFile(l.config(m, file), data, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// arguments renders the component's .args template: one flag per line, with comments, as in a configuration file.
func (l layout) arguments(component string, m member) ([]string, error) {
	data, err := render(component+".args.tmpl", l.settings(m))
	if err != nil {
		return nil, err
	}
	var args []string
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			args = append(args, line)
		}
	}
	return args, nil
}

func render(name string, s settings) ([]byte, error) {
	var out bytes.Buffer
	if err := configTemplates.ExecuteTemplate(&out, name, s); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", name, err)
	}
	return out.Bytes(), nil
}
