package node

import (
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

func TestEveryTemplateRendersForEveryMember(t *testing.T) {
	l := layout{"/state"}
	entries, err := configFiles.ReadDir("configs")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		for _, entry := range entries {
			text, err := render(entry.Name(), l.settings(m))
			if err != nil {
				t.Errorf("%s for %s: %v", entry.Name(), m.Name, err)
				continue
			}
			switch name := entry.Name(); {
			case strings.Contains(name, ".yaml"):
				err = yaml.UnmarshalStrict(text, &map[string]any{})
			case strings.Contains(name, ".conflist"):
				err = json.Unmarshal(text, &map[string]any{})
			}
			if err != nil {
				t.Errorf("%s for %s: %v\n%s", entry.Name(), m.Name, err, text)
			}
		}
	}
}

func TestArgumentsAreFlagsWithoutCommentsAndWithoutTwins(t *testing.T) {
	l := layout{"/state"}
	for _, m := range members {
		for _, component := range []string{
			"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy",
			"containerd", "agent",
		} {
			args, err := l.arguments(component, m)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for _, arg := range args {
				flag, _, _ := strings.Cut(arg, "=")
				if !strings.HasPrefix(flag, "--") || strings.ContainsAny(arg, " #") {
					t.Errorf("%s: %q is not a flag", component, arg)
				}
				if seen[flag] {
					t.Errorf("%s: %s occurs twice", component, flag)
				}
				seen[flag] = true
			}
		}
	}
}

func TestOnlyNodesWithGPUsAreTainted(t *testing.T) {
	for _, m := range members {
		text, err := render("kubelet.yaml.tmpl", layout{"/state"}.settings(m))
		if err != nil {
			t.Fatal(err)
		}
		if tainted := strings.Contains(string(text), "registerWithTaints"); tainted != (m.GPUs > 0) {
			t.Errorf("%s has %d GPUs, tainted is %v", m.Name, m.GPUs, tainted)
		}
	}
}

func TestAddressesLieInTheirRangesAndDoNotCollide(t *testing.T) {
	within := func(what, ip, in string) {
		if !mustParse(t, in).Contains(net.ParseIP(ip)) {
			t.Errorf("%s %s is not in %s", what, ip, in)
		}
	}
	within("the machine's end", hostAddress, clusterRange)
	within("DNS", dnsService, serviceRange)
	within("the API server's Service", firstService, serviceRange)
	seen := map[string]string{hostAddress: "the machine", podGateway: "the gateway"}
	for _, m := range members {
		within(m.Name, m.Address, clusterRange)
		for _, ip := range []string{m.Address, m.PodFirst, m.PodLast} {
			if other, ok := seen[ip]; ok {
				t.Errorf("%s of %s belongs to %s already", ip, m.Name, other)
			}
			seen[ip] = m.Name
		}
		within("the first pod of "+m.Name, m.PodFirst, podRange)
		within("the last pod of "+m.Name, m.PodLast, podRange)
	}
}

func TestKubeconfigsAreSelfContained(t *testing.T) {
	l := layout{t.TempDir()}
	if err := ensurePKI(l.pki(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := l.writeKubeconfigs(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{l.kubeconfig(), l.component("agent"), l.component("node1"), l.component("gpu1")} {
		config, err := clientcmd.BuildConfigFromFlags("", path)
		if err != nil {
			t.Fatal(err)
		}
		if config.Host != "https://"+address()+":6443" ||
			len(config.CAData) == 0 || len(config.CertData) == 0 || len(config.KeyData) == 0 {
			t.Errorf("%s: incomplete", filepath.Base(path))
		}
	}
}

func mustParse(t *testing.T, cidr string) *net.IPNet {
	t.Helper()
	_, n, err := net.ParseCIDR(cidr)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
