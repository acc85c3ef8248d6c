package node

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// contextName is what `kubectl config current-context` prints.
const contextName = "ollama-k8s"

// writeKubeconfigs writes a self-contained kubeconfig for each client of the API server and for the administrator.
func (l layout) writeKubeconfigs() error {
	clients := map[string]string{"admin": l.kubeconfig()}
	for _, name := range []string{"agent", "kube-controller-manager", "kube-scheduler", "kube-proxy"} {
		clients[name] = l.component(name)
	}
	for _, m := range members {
		clients[m.Name] = l.component(m.Name)
	}
	for name, path := range clients {
		data, err := l.renderKubeconfig(name)
		if err != nil {
			return fmt.Errorf("kubeconfig of %s: %w", name, err)
		}
		if err := writeFile(path, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (l layout) renderKubeconfig(client string) ([]byte, error) {
	read := func(file string) ([]byte, error) { return os.ReadFile(filepath.Join(l.pki(), file)) }
	ca, err := read(clusterCA + ".crt")
	if err != nil {
		return nil, err
	}
	cert, err := read(client + ".crt")
	if err != nil {
		return nil, err
	}
	key, err := read(client + ".key")
	if err != nil {
		return nil, err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters[contextName] = &clientcmdapi.Cluster{
		Server:                   "https://" + address() + ":6443",
		CertificateAuthorityData: ca,
	}
	config.AuthInfos[client] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	config.Contexts[contextName] = &clientcmdapi.Context{Cluster: contextName, AuthInfo: client}
	config.CurrentContext = contextName
	return clientcmd.Write(*config)
}
