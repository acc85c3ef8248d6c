package components

import (
	"net/url"
	"sort"
	"strconv"

	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	"github.com/pulumi/pulumi-random/sdk/v4/go/random"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// OIDC is the other door than a team's key: a token, or a browser's session, of an identity provider. oauth2-proxy checks them, in each front
// pod, and HAProxy takes its word on an address of the pod's loopback, which nothing outside the pod reaches.
type OIDC struct {
	// Image of oauth2-proxy 7.15 or later, with a shell.
	Image string
	// IssuerURL of the provider, as it writes itself into tokens.
	IssuerURL string
	// Provider is oauth2-proxy's kind of provider: "keycloak-oidc", which also reads Keycloak's roles, as groups role:NAME and
	// role:CLIENT:NAME, or "oidc". Default: keycloak-oidc.
	Provider string
	// ClientID is the client that tokens must be made for: their audience. Default: ollama.
	ClientID string
	// ClientSecret is a Secret whose entry client-secret is the client's. Default: no browser can sign in, tokens work.
	ClientSecret string
	// Scope that a browser's sign-in asks for. Default: openid email profile.
	Scope string
	// CABundle is a ConfigMap whose entry ca.crt has the authorities, in PEM, to trust besides the system's. Default: none.
	CABundle string
	// Groups of the provider, and the team that each is. Somebody in several is of the first in alphabetical order.
	Groups map[string]string
}

func (o OIDC) withDefaults() *OIDC {
	setDefault(&o.Provider, "keycloak-oidc")
	setDefault(&o.ClientID, "ollama")
	setDefault(&o.Scope, "openid email profile")
	return &o
}

type oidcGroup struct{ Group, Team string }

func (o *OIDC) groups() []oidcGroup {
	groups := make([]oidcGroup, 0, len(o.Groups))
	for group, team := range o.Groups {
		groups = append(groups, oidcGroup{group, team})
	}
	sort.Slice(groups, func(i, j int) bool { return groups[i].Group < groups[j].Group })
	return groups
}

// issuerPort is the TCP port on which the provider answers.
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

// config renders oauth2-proxy.cfg; https says how browsers reach the front.
func (o *OIDC) config(https bool) (string, error) {
	return render("oauth2-proxy.cfg.tmpl", map[string]any{
		"OIDC": o, "HTTPS": https, "Port": portOAuth2Proxy, "SignedInPort": portSignedIn, "AnswerSeconds": answerSeconds,
	})
}

// secret holds what encrypts the browsers' sessions: all fronts must share it.
func (o *OIDC) secret(ctx *pulumi.Context, name string, namespace pulumi.StringInput, opts ...pulumi.ResourceOption) (*corev1.Secret, error) {
	cookie, err := random.NewRandomPassword(ctx, name+"-cookie", &random.RandomPasswordArgs{
		Length: pulumi.Int(32), Special: pulumi.Bool(false), // of bytes, an AES-256 key
	}, opts...)
	if err != nil {
		return nil, err
	}
	return corev1.NewSecret(ctx, name+"-oidc", &corev1.SecretArgs{
		Metadata: autonamed(namespace, roleFront, name), StringData: pulumi.StringMap{"cookie-secret": cookie.Result},
	}, opts...)
}

// container is oauth2-proxy as a sidecar: it starts before HAProxy and ends after it.
func (o *OIDC) container(secret *corev1.Secret) *corev1.ContainerArgs {
	fromSecret := func(variable string, secret pulumi.StringPtrInput, key string) *corev1.EnvVarArgs {
		return &corev1.EnvVarArgs{Name: pulumi.String(variable), ValueFrom: &corev1.EnvVarSourceArgs{
			SecretKeyRef: &corev1.SecretKeySelectorArgs{Name: secret, Key: pulumi.String(key)},
		}}
	}
	// Where no browser signs in the client's secret is never sent, but oauth2-proxy wants one.
	clientSecret := fromSecret("OAUTH2_PROXY_CLIENT_SECRET", secret.Metadata.Name(), "cookie-secret")
	if o.ClientSecret != "" {
		clientSecret = fromSecret("OAUTH2_PROXY_CLIENT_SECRET", pulumi.String(o.ClientSecret), "client-secret")
	}
	mounts := corev1.VolumeMountArray{mount("config", "/etc/oauth2-proxy", true)}
	if o.CABundle != "" {
		mounts = append(mounts, mount("ca", "/etc/oauth2-proxy-ca", true))
	}
	return &corev1.ContainerArgs{
		Name:            pulumi.String("oauth2-proxy"),
		Image:           pulumi.String(o.Image),
		Command:         pulumi.ToStringArray([]string{"sh", "/etc/oauth2-proxy/oidc.sh"}),
		Env:             corev1.EnvVarArray{fromSecret("OAUTH2_PROXY_COOKIE_SECRET", secret.Metadata.Name(), "cookie-secret"), clientSecret},
		Resources:       requests("50m", "128Mi"), // idle 25 MB
		RestartPolicy:   pulumi.String("Always"),
		SecurityContext: restrictedContainer(),
		VolumeMounts:    mounts,
	}
}
