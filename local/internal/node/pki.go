package node

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// certificateLife is long because nobody rotates the certificates of a cluster on a developer's machine.
	certificateLife = 10 * 365 * 24 * time.Hour
	// renewBefore makes Up renew a certificate that would expire while a cluster stays up.
	renewBefore = 30 * 24 * time.Hour
)

// certificate says what a certificate must attest.
type certificate struct {
	name    string // of its files, NAME.crt and NAME.key
	signer  string // the authority's name
	subject pkix.Name
	hosts   []string // IP addresses and DNS names
	usages  []x509.ExtKeyUsage
}

var (
	asServer = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	asClient = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	asBoth   = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
)

const (
	clusterCA    = "ca"
	frontProxyCA = "front-proxy-ca"
)

// certificates lists every certificate of the cluster. Kubernetes reads a client's user from the common name and its
// groups from the organisations.
func certificates() []certificate {
	user := func(name string, groups ...string) pkix.Name {
		return pkix.Name{CommonName: name, Organization: groups}
	}
	client := func(name, signer string, subject pkix.Name) certificate {
		return certificate{name: name, signer: signer, subject: subject, usages: asClient}
	}
	const admins = "system:masters"
	list := []certificate{
		{name: "apiserver", signer: clusterCA, subject: user("kube-apiserver"), usages: asServer, hosts: []string{
			"127.0.0.1", address(), firstService, "localhost", "kubernetes", "kubernetes.default",
			"kubernetes.default.svc", "kubernetes.default.svc." + clusterDomain}},
		client("apiserver-kubelet-client", clusterCA, user("kube-apiserver-kubelet-client", admins)),
		client("front-proxy-client", frontProxyCA, user("front-proxy-client")),
		client("admin", clusterCA, user("admin", admins)),
		client("agent", clusterCA, user("ollama-k8s-agent", admins)),
		client("kube-controller-manager", clusterCA, user("system:kube-controller-manager")),
		client("kube-scheduler", clusterCA, user("system:kube-scheduler")),
		client("kube-proxy", clusterCA, user("system:kube-proxy")),
	}
	for _, m := range members {
		list = append(list, certificate{name: m.Name, signer: clusterCA,
			subject: user("system:node:"+m.Name, "system:nodes"), usages: asBoth, hosts: []string{m.Address, m.Name}})
	}
	return list
}

// ensurePKI creates what is missing, damaged or about to expire under dir, and keeps the rest. A new authority issues
// all its certificates anew.
func ensurePKI(dir string, now time.Time) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	authorities := map[string]*keyPair{}
	for _, name := range []string{clusterCA, frontProxyCA} {
		ca, err := loadKeyPair(dir, name)
		if err != nil || !ca.cert.IsCA || ca.cert.NotAfter.Before(now.Add(renewBefore)) {
			if ca, err = newAuthority(name, now); err != nil {
				return fmt.Errorf("certificate authority %s: %w", name, err)
			}
			if err := ca.save(dir, name); err != nil {
				return err
			}
		}
		authorities[name] = ca
	}
	for _, want := range certificates() {
		ca := authorities[want.signer]
		have, err := loadKeyPair(dir, want.name)
		if err == nil && want.matches(have.cert, ca.cert, now) {
			continue
		}
		made, err := want.issue(ca, now)
		if err != nil {
			return fmt.Errorf("certificate %s: %w", want.name, err)
		}
		if err := made.save(dir, want.name); err != nil {
			return err
		}
	}
	return ensureTokenKey(dir)
}

// keyPair is a certificate with its private key.
type keyPair struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newAuthority(name string, now time.Time) (*keyPair, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "ollama-k8s " + name},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return sign(template, nil, now)
}

func (c certificate) issue(ca *keyPair, now time.Time) (*keyPair, error) {
	template := &x509.Certificate{
		Subject:               c.subject,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           c.usages,
	}
	template.IPAddresses, template.DNSNames = c.alternativeNames()
	return sign(template, ca, now)
}

// sign makes a key and a certificate for it, which is self-signed if ca is nil.
func sign(template *x509.Certificate, ca *keyPair, now time.Time) (*keyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.NotBefore = now.Add(-time.Hour) // the machine's clock may be set back a little
	template.NotAfter = now.Add(certificateLife)
	parent, signer := template, crypto.Signer(key)
	if ca != nil {
		parent, signer = ca.cert, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &keyPair{cert: cert, key: key}, nil
}

func (c certificate) alternativeNames() (ips []net.IP, names []string) {
	for _, host := range c.hosts {
		if ip := net.ParseIP(host); ip != nil {
			ips = append(ips, ip)
		} else {
			names = append(names, host)
		}
	}
	return ips, names
}

// matches reports whether have still serves the purpose of c.
func (c certificate) matches(have, ca *x509.Certificate, now time.Time) bool {
	ips, names := c.alternativeNames()
	return have.CheckSignatureFrom(ca) == nil &&
		have.NotAfter.After(now.Add(renewBefore)) &&
		have.Subject.CommonName == c.subject.CommonName &&
		slices.Equal(have.Subject.Organization, c.subject.Organization) &&
		slices.Equal(have.ExtKeyUsage, c.usages) &&
		slices.Equal(have.DNSNames, names) &&
		slices.EqualFunc(have.IPAddresses, ips, net.IP.Equal)
}

func (p *keyPair) save(dir, name string) error {
	key, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		return err
	}
	// The key goes first: the next run finds and renews a certificate that does not belong to its key.
	if err := writePEM(filepath.Join(dir, name+".key"), "PRIVATE KEY", key); err != nil {
		return err
	}
	return writePEM(filepath.Join(dir, name+".crt"), "CERTIFICATE", p.cert.Raw)
}

func loadKeyPair(dir, name string) (*keyPair, error) {
	raw, err := readPEM(filepath.Join(dir, name+".crt"))
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, err
	}
	key, err := loadKey(filepath.Join(dir, name+".key"))
	if err != nil {
		return nil, err
	}
	if public, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(key.Public()) {
		return nil, fmt.Errorf("%s: the key does not belong to the certificate", name)
	}
	return &keyPair{cert: cert, key: key}, nil
}

// ensureTokenKey keeps the key that signs service account tokens: a new one would invalidate every running pod's token.
func ensureTokenKey(dir string) error {
	private, public := filepath.Join(dir, "sa.key"), filepath.Join(dir, "sa.pub")
	key, err := loadKey(private)
	if errors.Is(err, fs.ErrNotExist) {
		var fresh *ecdsa.PrivateKey
		if fresh, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return err
		}
		der, err := x509.MarshalPKCS8PrivateKey(fresh)
		if err != nil {
			return err
		}
		if err := writePEM(private, "PRIVATE KEY", der); err != nil {
			return err
		}
		key = fresh
	} else if err != nil {
		return fmt.Errorf("service account key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return writePEM(public, "PUBLIC KEY", der)
}

func loadKey(path string) (crypto.Signer, error) {
	raw, err := readPEM(path)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: a key of type %T cannot sign", path, key)
	}
	return signer, nil
}

func readPEM(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM block", path)
	}
	return block.Bytes, nil
}

func writePEM(path, kind string, der []byte) error {
	return writeFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
