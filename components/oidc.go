package components

import (
	"encoding/base64"
	"net/url"
	"sort"
	"strconv"
	"strings"

	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	"github.com/pulumi/pulumi-random/sdk/v4/go/random"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// OIDC lets users in with a token or a browser session of an identity provider instead of a team's key. oauth2-proxy
// checks both in each front pod. HAProxy trusts what oauth2-proxy sends to a loopback address of the pod, which nothing
// outside the pod can reach.
type OIDC struct {
	// Image of oauth2-proxy 7.15, with a shell. Another minor release may read oauth2-proxy.yaml differently.
	Image string
	// IssuerURL of the provider, as in its tokens.
	IssuerURL string
	// Provider is oauth2-proxy's type of provider: "keycloak-oidc", which also reads Keycloak's roles as groups role:NAME
	// and role:CLIENT:NAME, or "oidc". Default: keycloak-oidc.
	Provider string
	// ClientID is the audience that tokens must have. Default: ollama.
	ClientID string
	// ClientSecret is a Secret whose entry client-secret is the client's. Default: browsers cannot sign in, but tokens
	// work.
	ClientSecret string
	// Scope that a browser requests when it signs in. Default: openid email profile.
	Scope string
	// CABundle is a ConfigMap whose entry ca.crt has PEM certificates of the CAs to trust besides the system's. Default:
	// none.
	CABundle string
	// Groups maps the provider's groups to teams. A user in several groups gets the team of the first one, in alphabetical
	// order.
	Groups map[string]string
}

func (o OIDC) withDefaults() *OIDC {
	setDefault(&o.Provider, "keycloak-oidc")
	setDefault(&o.ClientID, "ollama")
	setDefault(&o.Scope, "openid email profile")
	return &o
}

type oidcGroup struct{ Group, Team string }

// groupPassword protects nothing. It exists because oauth2-proxy makes no credential without a password.
const groupPassword = "x"

// Token returns the value that oauth2-proxy adds to X-Forwarded-Groups for the group: a Basic credential, whose base64
// contains no comma. HAProxy splits the header at commas, so with plain names a group "a,/ml" would pass for /ml.
func (g oidcGroup) Token() string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(g.Group+":"+groupPassword))
}

func (o *OIDC) groups() []oidcGroup {
	groups := make([]oidcGroup, 0, len(o.Groups))
	for group, team := range o.Groups {
		groups = append(groups, oidcGroup{group, team})
	}
	sort.Slice(groups, func(i, j int) bool { return groups[i].Group < groups[j].Group })
	return groups
}

// issuerPort returns the TCP port of the provider.
func (o *OIDC) issuerPort() int {
	if issuer, err := url.Parse(o.IssuerURL); err == nil {
		if port, err := strconv.Atoi(issuer.Port()); err == nil {
			return port
		}
		if issuer.Scheme == "http" {
			return 80
		}
	}
	return 443
}

// configFiles returns the files for oauth2-proxy's container, by name. https says whether browsers reach the front by
// HTTPS.
func (o *OIDC) configFiles(https bool) (map[string]string, error) {
	core, err := render("oauth2-proxy.cfg.tmpl", struct{ HTTPS bool }{https})
	if err != nil {
		return nil, err
	}
	alpha, err := render("oauth2-proxy.yaml.tmpl", struct {
		Provider, ClientID, Scope, IssuerURL, GroupPassword string
		CABundle                                            bool
		Port, SignedInPort, AnswerSeconds                   int
	}{
		yamlString(o.Provider), yamlString(o.ClientID), yamlString(o.Scope), yamlString(o.IssuerURL), groupPassword,
		o.CABundle != "",
		portOAuth2Proxy, portSignedIn, answerSeconds + hopSeconds,
	})
	if err != nil {
		return nil, err
	}
	return map[string]string{"oauth2-proxy.cfg": core, "oauth2-proxy.yaml": alpha, "oidc.sh": file("oidc.sh")}, nil
}

// yamlString quotes a value for YAML, which knows Go's escapes. It escapes dollar signs, because oauth2-proxy would
// expand what follows as an environment variable.
func yamlString(value string) string {
	return strings.ReplaceAll(strconv.Quote(value), "$", `\x24`)
}

// secret creates the Secret with the key that encrypts browser sessions. All fronts must share it.
func (o *OIDC) secret(
	ctx *pulumi.Context, name string, namespace pulumi.StringInput, opts ...pulumi.ResourceOption,
) (*corev1.Secret, error) {
	cookie, err := random.NewRandomPassword(ctx, name+"-cookie", &random.RandomPasswordArgs{
		Length: pulumi.Int(32), Special: pulumi.Bool(false), // bytes of an AES-256 key
	}, opts...)
	if err != nil {
		return nil, err
	}
	return corev1.NewSecret(ctx, name+"-oidc", &corev1.SecretArgs{
		Metadata:   autonamed(namespace, roleFront, name),
		StringData: pulumi.StringMap{"cookie-secret": cookie.Result},
	}, opts...)
}

// oauth2ProxyContainer returns oauth2-proxy as a sidecar, which starts before HAProxy and ends after it.
func (o *OIDC) oauth2ProxyContainer(secret *corev1.Secret) *corev1.ContainerArgs {
	fromSecret := func(variable string, secret pulumi.StringPtrInput, key string) *corev1.EnvVarArgs {
		return &corev1.EnvVarArgs{Name: pulumi.String(variable), ValueFrom: &corev1.EnvVarSourceArgs{
			SecretKeyRef: &corev1.SecretKeySelectorArgs{Name: secret, Key: pulumi.String(key)},
		}}
	}
	// oauth2-proxy needs a client secret even if no browser signs in. Then it never sends it.
	clientSecret := fromSecret("OAUTH2_PROXY_CLIENT_SECRET", secret.Metadata.Name(), "cookie-secret")
	if o.ClientSecret != "" {
		clientSecret = fromSecret("OAUTH2_PROXY_CLIENT_SECRET", pulumi.String(o.ClientSecret), "client-secret")
	}
	mounts := corev1.VolumeMountArray{mount("config", "/etc/oauth2-proxy", true)}
	if o.CABundle != "" {
		mounts = append(mounts, mount("ca", "/etc/oauth2-proxy-ca", true))
	}
	return &corev1.ContainerArgs{
		Name:    pulumi.String("oauth2-proxy"),
		Image:   pulumi.String(o.Image),
		Command: pulumi.ToStringArray([]string{"sh", "/etc/oauth2-proxy/oidc.sh"}),
		Env: corev1.EnvVarArray{
			fromSecret("OAUTH2_PROXY_COOKIE_SECRET", secret.Metadata.Name(), "cookie-secret"), clientSecret,
		},
		Resources:       requests("50m", "128Mi"), // 25 MB when idle
		RestartPolicy:   pulumi.String("Always"),
		SecurityContext: restrictedContainer(),
		VolumeMounts:    mounts,
	}
}
