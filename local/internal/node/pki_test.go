package node

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestEveryCertificateIsGoodForWhatItIsFor(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	if err := ensurePKI(dir, now); err != nil {
		t.Fatal(err)
	}
	for _, want := range certificates() {
		t.Run(want.name, func(t *testing.T) {
			pair, err := loadKeyPair(dir, want.name)
			if err != nil {
				t.Fatal(err)
			}
			ca, err := loadKeyPair(dir, want.signer)
			if err != nil {
				t.Fatal(err)
			}
			roots := x509.NewCertPool()
			roots.AddCert(ca.cert)
			for _, usage := range want.usages {
				options := x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}}
				if _, err := pair.cert.Verify(options); err != nil {
					t.Errorf("usage %v: %v", usage, err)
				}
			}
			for _, host := range want.hosts {
				if err := pair.cert.VerifyHostname(host); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestRenewalTouchesOnlyWhatNeedsIt(t *testing.T) {
	now := time.Now()
	const victim = "kube-proxy"
	tests := []struct {
		name    string
		damage  func(t *testing.T, dir string)
		at      time.Time
		renewed []string // of ca, apiserver, kube-proxy and sa
	}{
		{name: "nothing changes when all is well", damage: func(*testing.T, string) {}, at: now},
		{name: "a lost key costs its own certificate", at: now, renewed: []string{victim},
			damage: func(t *testing.T, dir string) { remove(t, dir, victim+".key") }},
		{name: "half a file costs its own certificate", at: now, renewed: []string{victim},
			damage: func(t *testing.T, dir string) { overwrite(t, dir, victim+".crt") }},
		{name: "a lost authority costs everything that it signed, but no token key", at: now,
			renewed: []string{"ca", "apiserver", victim},
			damage:  func(t *testing.T, dir string) { remove(t, dir, "ca.key") }},
		{name: "a certificate that is about to expire is renewed", damage: func(*testing.T, string) {},
			at: now.Add(certificateLife - 24*time.Hour), renewed: []string{"ca", "apiserver", victim}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := ensurePKI(dir, now); err != nil {
				t.Fatal(err)
			}
			before := contents(t, dir)
			test.damage(t, dir)
			if err := ensurePKI(dir, test.at); err != nil {
				t.Fatal(err)
			}
			after := contents(t, dir)
			renewed := map[string]bool{}
			for _, name := range test.renewed {
				renewed[name+".key"] = true
			}
			for _, file := range []string{"ca.key", "apiserver.key", victim + ".key", "sa.key"} {
				if changed := before[file] != after[file]; changed != renewed[file] {
					t.Errorf("%s: changed is %v", file, changed)
				}
			}
		})
	}
}

func TestADamagedTokenKeyIsAnErrorAndNotReplaced(t *testing.T) {
	dir := t.TempDir()
	if err := ensurePKI(dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	overwrite(t, dir, "sa.key")
	if err := ensurePKI(dir, time.Now()); err == nil {
		t.Error("no error, although a new key would invalidate every token")
	}
}

func remove(t *testing.T, elem ...string) {
	t.Helper()
	if err := os.Remove(filepath.Join(elem...)); err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, elem ...string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(elem...), []byte("-----BEGIN"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, entry := range entries {
		data, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[entry.Name()] = string(data)
	}
	return files
}
