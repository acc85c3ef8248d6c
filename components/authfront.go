package components

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sort"
	"strings"

	appsv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/apps/v1"
	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	networkingv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/networking/v1"
	"github.com/pulumi/pulumi-random/sdk/v4/go/random"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// Team is a group of users who share keys and limits.
type Team struct {
	Name string
	// Models that the team may use. Default: all.
	Models []string
	// RequestsPerMinute is the team's limit over all models. Default: no limit.
	RequestsPerMinute int
	// ConcurrentRequests is how many requests the team may have in flight, including waiting ones. Default: 100, a whole
	// queue.
	ConcurrentRequests int
	// Keys lists the generations of the team's valid keys. The last one is the key to hand out. Adding a number creates a
	// key, and removing it revokes the key. Default: 1. Empty but not nil: no key is created.
	Keys []int
	// Priority of the team's requests in a queue. Default: PriorityInteractive.
	Priority Priority
}

// Priority of a team.
type Priority string

// Priorities.
const (
	PriorityInteractive Priority = "interactive"
	PriorityBackground  Priority = "background" // interactive requests go first
)

// AuthFrontArgs configures who may send requests, which pools answer them, and how clients reach the front.
type AuthFrontArgs struct {
	Namespace pulumi.StringInput
	// Image is a HAProxy 3.4 image. Older versions cannot inspect large bodies.
	Image string
	Teams []Team
	// Pools that answer the requests.
	Pools []Pool
	// ClusterDomain is appended to each pool's host, because HAProxy resolves only full names. Default: cluster.local.
	ClusterDomain string
	// QueueLength is how many requests may wait for a model before the front rejects more. Default: 100.
	QueueLength int
	// BodyMiB is the largest request body in MiB, at most 32. The front reads the whole body to find the model, and
	// copying 32 MiB holds up the other requests of a thread for 25 ms. Default: 32, about ten photos in base64.
	BodyMiB int
	// MaxSeconds is how long a request may last, including its wait in the queue. Default: 3600.
	MaxSeconds int
	// Replicas of the front. One of them queues and counts for all; the others forward requests to it and stand by.
	// Default: 2.
	Replicas int
	// KeysSecret is a Secret with keys that you manage elsewhere. Its entry keys.map has a line "SHA-256-in-hex team" for
	// each key. The front reloads it when it changes. Default: none.
	KeysSecret string
	// TLSSecret is a Secret of type kubernetes.io/tls. With it, the front serves HTTPS. Default: plain HTTP.
	TLSSecret string
	// OIDC lets in users whom an identity provider knows. Default: keys only.
	OIDC *OIDC
	// Expose makes the front reachable from outside the cluster. Default: only from inside.
	Expose Expose
}

// AuthFront is the only way to the pools: HAProxy with a key per team, a queue per pool and model, and a Prometheus
// exporter.
type AuthFront struct {
	pulumi.ResourceState

	// Endpoint is the base URL that clients use.
	Endpoint pulumi.StringOutput `pulumi:"endpoint"`
	// ServiceName, Scheme and ServicePort are those of the front's own Service, whatever is in front of it.
	ServiceName pulumi.StringOutput `pulumi:"serviceName"`
	Scheme      string              `pulumi:"scheme"`
	ServicePort int                 `pulumi:"servicePort"`
	// APIKeys holds the key to hand out to each team. Secret.
	APIKeys pulumi.StringMapOutput `pulumi:"apiKeys"`
	// MetricsHost resolves to the address of every front pod. MetricsPort is the port of its exporter.
	MetricsHost pulumi.StringOutput `pulumi:"metricsHost"`
	MetricsPort int                 `pulumi:"metricsPort"`
}

const (
	// keyLength is the number of characters of [A-Za-z0-9] in a key: 238 bits.
	keyLength = 40
	// maxBodyMiB is the size up to which reading one body holds up a thread for at most 25 ms.
	maxBodyMiB = 32
	// concurrentRequests is the default for a team: as many as a queue of the default length holds.
	concurrentRequests = 100
)

// NewAuthFront creates the keys, the front's configuration and its pods, and waits for their rollout.
func NewAuthFront(
	ctx *pulumi.Context, name string, args *AuthFrontArgs, opts ...pulumi.ResourceOption,
) (*AuthFront, error) {
	a := args.withDefaults()
	if err := a.validate(); err != nil {
		return nil, fmt.Errorf("AuthFront %s: %w", name, err)
	}
	front := &AuthFront{MetricsPort: portMetrics, Scheme: a.scheme(), ServicePort: a.servicePort()}
	if err := ctx.RegisterComponentResourceV2("ollama-k8s:index:AuthFront", name, pulumi.Map{
		"namespace": a.Namespace, "image": pulumi.String(a.Image), "replicas": pulumi.Int(a.Replicas),
	}, front, opts...); err != nil {
		return nil, err
	}
	if err := a.children(ctx, name, front, pulumi.Parent(front)); err != nil {
		return nil, err
	}
	return front, ctx.RegisterResourceOutputs(front, pulumi.Map{
		"endpoint": front.Endpoint, "serviceName": front.ServiceName,
		"scheme": pulumi.String(front.Scheme), "servicePort": pulumi.Int(front.ServicePort),
		"apiKeys": front.APIKeys, "metricsHost": front.MetricsHost, "metricsPort": pulumi.Int(front.MetricsPort),
	})
}

func (a AuthFrontArgs) withDefaults() *AuthFrontArgs {
	setDefault(&a.ClusterDomain, "cluster.local")
	setDefault(&a.Replicas, 2)
	setDefault(&a.QueueLength, 100)
	setDefault(&a.BodyMiB, maxBodyMiB)
	setDefault(&a.MaxSeconds, 3600)
	if a.OIDC != nil {
		a.OIDC = a.OIDC.withDefaults()
	}
	return &a
}

func (a *AuthFrontArgs) validate() error {
	switch {
	case len(a.Teams) == 0:
		return errors.New("teams is empty: add at least one team")
	case len(a.Pools) == 0:
		return errors.New("pools is empty: add at least one pool")
	case a.BodyMiB > maxBodyMiB:
		return fmt.Errorf(
			"BodyMiB is %d: use at most %d, since reading more would hold up other requests", a.BodyMiB, maxBodyMiB,
		)
	}
	return nil
}

// children creates the front's objects.
func (a *AuthFrontArgs) children(
	ctx *pulumi.Context, name string, front *AuthFront, parent pulumi.ResourceOption,
) error {
	if err := a.podsService(ctx, name, front, parent); err != nil {
		return fmt.Errorf("creating the pods' service of %s: %w", name, err)
	}
	keys, err := a.keys(ctx, name, front, parent)
	if err != nil {
		return fmt.Errorf("creating the keys of %s: %w", name, err)
	}
	config, err := a.haproxyConfigMap(ctx, name, front.MetricsHost, parent)
	if err != nil {
		return fmt.Errorf("creating the configuration of %s: %w", name, err)
	}
	var signIn *corev1.Secret
	if a.OIDC != nil {
		if signIn, err = a.OIDC.secret(ctx, name, a.Namespace, parent); err != nil {
			return fmt.Errorf("creating the cookie secret of %s: %w", name, err)
		}
	}
	if err := a.deployment(ctx, name, config, keys, signIn, parent); err != nil {
		return fmt.Errorf("creating the deployment of %s: %w", name, err)
	}
	if err := networkPolicy(ctx, name, a.Namespace, roleFront, a.traffic(), parent); err != nil {
		return fmt.Errorf("creating the network policy of %s: %w", name, err)
	}
	if err := disruptionBudget(ctx, name, a.Namespace, roleFront, parent); err != nil {
		return fmt.Errorf("creating the disruption budget of %s: %w", name, err)
	}
	if err := a.expose(ctx, name, front, parent); err != nil {
		return fmt.Errorf("exposing %s: %w", name, err)
	}
	return nil
}

// traffic returns the connections that the front's pods accept and open.
func (a *AuthFrontArgs) traffic() allow {
	open := allow{
		ingress: networkingv1.NetworkPolicyIngressRuleArray{
			&networkingv1.NetworkPolicyIngressRuleArgs{Ports: networkingv1.NetworkPolicyPortArray{tcp(portAPI)}},
			&networkingv1.NetworkPolicyIngressRuleArgs{
				From: anyNamespace(), Ports: networkingv1.NetworkPolicyPortArray{tcp(portMetrics)},
			},
		},
		egress: networkingv1.NetworkPolicyEgressRuleArray{dns(), &networkingv1.NetworkPolicyEgressRuleArgs{
			To: podsOf(roleServer), Ports: networkingv1.NetworkPolicyPortArray{tcp(portOllama)},
		}},
	}
	if a.Replicas > 1 {
		handOn := networkingv1.NetworkPolicyPortArray{tcp(portQueue)}
		open.ingress = append(
			open.ingress, &networkingv1.NetworkPolicyIngressRuleArgs{From: podsOf(roleFront), Ports: handOn},
		)
		// The fronts check each other on the port of the probes.
		look := append(networkingv1.NetworkPolicyPortArray{tcp(portMetrics)}, handOn...)
		open.egress = append(open.egress, &networkingv1.NetworkPolicyEgressRuleArgs{To: podsOf(roleFront), Ports: look})
	}
	if a.OIDC != nil { // the provider may be anywhere
		open.egress = append(open.egress, &networkingv1.NetworkPolicyEgressRuleArgs{
			Ports: networkingv1.NetworkPolicyPortArray{tcp(a.OIDC.issuerPort())},
		})
	}
	return open
}

// keys creates a password for each generation of each team's key, and the Secret with their hashes. The front sees only
// the hashes.
func (a *AuthFrontArgs) keys(
	ctx *pulumi.Context, name string, front *AuthFront, opts ...pulumi.ResourceOption,
) (pulumi.StringPtrOutput, error) {
	current, all := pulumi.StringMap{}, pulumi.StringMap{}
	for _, team := range a.Teams {
		generations := team.Keys
		if generations == nil {
			generations = []int{1}
		}
		for _, generation := range generations {
			resource := name + "-key-" + team.Name
			if generation != 1 {
				resource = fmt.Sprintf("%s-%d", resource, generation)
			}
			key, err := random.NewRandomPassword(ctx, resource, &random.RandomPasswordArgs{
				// no characters that need quotes in a shell or a header
				Length: pulumi.Int(keyLength), Special: pulumi.Bool(false),
			}, opts...)
			if err != nil {
				return pulumi.StringPtrOutput{}, err
			}
			current[team.Name] = key.Result
			all[fmt.Sprintf("%s/%d", team.Name, generation)] = key.Result
		}
	}
	front.APIKeys = pulumi.ToSecret(current.ToStringMapOutput()).(pulumi.StringMapOutput)
	hashes := pulumi.ToSecret(all.ToStringMapOutput()).(pulumi.StringMapOutput).ApplyT(hashedKeys).(pulumi.StringOutput)
	secret, err := corev1.NewSecret(ctx, name+"-keys", &corev1.SecretArgs{
		Metadata:   autonamed(a.Namespace, roleFront, name),
		StringData: pulumi.StringMap{"keys.map": hashes},
	}, opts...)
	if err != nil {
		return pulumi.StringPtrOutput{}, err
	}
	return secret.Metadata.Name(), nil
}

// hashedKeys returns a HAProxy map with sorted lines "sha256hex team/generation". The keys of its argument are
// team/generation.
func hashedKeys(keys map[string]string) string {
	lines := make([]string, 0, len(keys))
	for id, key := range keys {
		sum := sha256.Sum256([]byte(key))
		lines = append(lines, hex.EncodeToString(sum[:])+" "+id+"\n")
	}
	sort.Strings(lines)
	return strings.Join(lines, "")
}

// haproxyConfigMap creates the ConfigMap with HAProxy's files, except secrets, and oauth2-proxy's files.
func (a *AuthFrontArgs) haproxyConfigMap(
	ctx *pulumi.Context, name string, fronts pulumi.StringInput, opts ...pulumi.ResourceOption,
) (pulumi.StringPtrOutput, error) {
	hosts := pulumi.StringArray{fronts}
	for _, pool := range a.Pools {
		hosts = append(hosts, pool.Host)
	}
	haproxy := hosts.ToStringArrayOutput().ApplyT(func(hosts []string) (string, error) {
		return a.haproxyConfig(hosts[1:], hosts[0])
	}).(pulumi.StringOutput)
	data := pulumi.StringMap{"haproxy.cfg": haproxy}
	for file, text := range a.staticFiles() {
		data[file] = pulumi.String(text)
	}
	if a.OIDC != nil {
		files, err := a.OIDC.configFiles(a.https())
		if err != nil {
			return pulumi.StringPtrOutput{}, err
		}
		for name, text := range files {
			data[name] = pulumi.String(text)
		}
	}
	config, err := corev1.NewConfigMap(ctx, name, &corev1.ConfigMapArgs{
		Metadata:  autonamed(a.Namespace, roleFront, name),
		Data:      data,
		Immutable: pulumi.Bool(true),
	}, opts...)
	if err != nil {
		return pulumi.StringPtrOutput{}, err
	}
	return config.Metadata.Name(), nil
}

// staticFiles returns the files next to haproxy.cfg.
func (a *AuthFrontArgs) staticFiles() map[string]string {
	all := map[string]string{
		"models.map":        a.modelsMap(),
		"backends.map":      a.backendsMap(),
		"contexts.map":      a.contextsMap(),
		"tokens.map":        a.tokensMap(),
		"silent-tokens.map": a.silentTokensMap(),
		"grants.map":        a.grantsMap(),
		"limits.map":        a.teamsMap(func(t Team) int { return t.RequestsPerMinute }),
		"concurrent.map":    a.teamsMap(Team.concurrent),
		"priorities.map":    a.teamsMap(Team.priorityClass),
	}
	for _, name := range []string{
		"reader.lua", "seal.lua", "ends.lua", "ended.lua", "bodies.lua", "fair.lua", "usage.lua",
	} {
		all[name] = file(name)
	}
	if a.KeysSecret != "" {
		all["ownkeys.lua"] = file("ownkeys.lua")
	}
	if a.TLSSecret != "" {
		all["certificate.lua"] = file("certificate.lua")
	}
	return all
}

func (a *AuthFrontArgs) deployment(
	ctx *pulumi.Context, name string, config, keys pulumi.StringPtrInput, signIn *corev1.Secret,
	opts ...pulumi.ResourceOption,
) error {
	volumes, mounts := a.volumes(config, keys)
	var sidecars corev1.ContainerArray
	if a.OIDC != nil {
		sidecars = append(sidecars, a.OIDC.oauth2ProxyContainer(signIn))
		if a.OIDC.CABundle != "" {
			volumes = append(volumes, configVolume("ca", pulumi.String(a.OIDC.CABundle), 0o444))
		}
	}
	timeouts := pulumi.Timeouts(&pulumi.CustomTimeouts{Create: seconds(startSeconds), Update: seconds(startSeconds)})
	_, err := appsv1.NewDeployment(ctx, name, &appsv1.DeploymentArgs{
		Metadata: named(a.Namespace, roleFront, name, name),
		Spec: &appsv1.DeploymentSpecArgs{
			Replicas: pulumi.Int(a.Replicas),
			Selector: &metav1.LabelSelectorArgs{MatchLabels: selectInstance(roleFront, name)},
			Strategy: &appsv1.DeploymentStrategyArgs{
				Type:          pulumi.String("RollingUpdate"),
				RollingUpdate: &appsv1.RollingUpdateDeploymentArgs{MaxSurge: pulumi.Int(1), MaxUnavailable: pulumi.Int(0)},
			},
			Template: podTemplate(labels(roleFront, name), &corev1.PodSpecArgs{
				AutomountServiceAccountToken:  pulumi.Bool(false),
				SecurityContext:               restrictedPod(uidHAProxy),
				TerminationGracePeriodSeconds: pulumi.Int(stopSeconds + a.MaxSeconds + 20),
				TopologySpreadConstraints: corev1.TopologySpreadConstraintArray{&corev1.TopologySpreadConstraintArgs{
					MaxSkew: pulumi.Int(1), TopologyKey: pulumi.String("kubernetes.io/hostname"),
					WhenUnsatisfiable: pulumi.String("ScheduleAnyway"),
					LabelSelector:     &metav1.LabelSelectorArgs{MatchLabels: selectInstance(roleFront, name)},
				}},
				InitContainers: sidecars, // they start first and end last
				Containers:     corev1.ContainerArray{a.haproxyContainer(mounts)},
				Volumes:        volumes,
			}),
		},
	}, append([]pulumi.ResourceOption{timeouts}, opts...)...)
	return err
}

// volumes returns the volumes of the front's pod, and where HAProxy mounts them.
func (a *AuthFrontArgs) volumes(config, keys pulumi.StringPtrInput) (corev1.VolumeArray, corev1.VolumeMountArray) {
	volumes := corev1.VolumeArray{configVolume("config", config, 0o444), secretVolume("keys", keys)}
	mounts := corev1.VolumeMountArray{mount("config", "/etc/haproxy", true), mount("keys", "/etc/haproxy-keys", true)}
	if a.KeysSecret != "" {
		volumes = append(volumes, secretVolume("own-keys", pulumi.String(a.KeysSecret)))
		mounts = append(mounts, mount("own-keys", "/etc/haproxy-own-keys", true))
	}
	if a.TLSSecret != "" {
		volumes = append(volumes, secretVolume("tls", pulumi.String(a.TLSSecret)), scratch("run"))
		mounts = append(mounts, mount("tls", "/etc/haproxy-tls", true), mount("run", "/run/haproxy", false))
	}
	return volumes, mounts
}

func (a *AuthFrontArgs) haproxyContainer(mounts corev1.VolumeMountArray) *corev1.ContainerArgs {
	ports := corev1.ContainerPortArray{containerPort(portNameHTTP, portAPI), containerPort(portNameMetrics, portMetrics)}
	if a.Replicas > 1 {
		ports = append(ports, containerPort(portNameQueue, portQueue))
	}
	return &corev1.ContainerArgs{
		Name:           pulumi.String("haproxy"),
		Image:          pulumi.String(a.Image),
		Command:        pulumi.ToStringArray([]string{"haproxy", "-W", "-db", "-f", "/etc/haproxy/haproxy.cfg"}),
		Ports:          ports,
		ReadinessProbe: httpProbe(portNameMetrics, "/readyz", 2, 2),
		LivenessProbe:  httpProbe(portNameMetrics, "/healthz", 10, 3),
		Lifecycle: &corev1.LifecycleArgs{PreStop: &corev1.LifecycleHandlerArgs{
			Sleep: &corev1.SleepActionArgs{Seconds: pulumi.Int(stopSeconds)},
		}},
		Resources:       a.resources(),
		Env:             corev1.EnvVarArray{podIPs()},
		SecurityContext: restrictedContainer(),
		VolumeMounts:    mounts,
	}
}

// podIPs tells HAProxy whether the pod has an IPv6 address.
func podIPs() *corev1.EnvVarArgs {
	return &corev1.EnvVarArgs{Name: pulumi.String("POD_IPS"), ValueFrom: &corev1.EnvVarSourceArgs{
		FieldRef: &corev1.ObjectFieldSelectorArgs{FieldPath: pulumi.String("status.podIPs")},
	}}
}

// podsService creates a Service that resolves to each ready front pod. Prometheus finds the pods without access to the
// API server, and the pods find each other.
func (a *AuthFrontArgs) podsService(
	ctx *pulumi.Context, name string, front *AuthFront, opts ...pulumi.ResourceOption,
) error {
	metadata := named(a.Namespace, roleFront, name, name+HeadlessSuffix)
	metadata.Annotations = skipAwait()
	service, err := corev1.NewService(ctx, name+HeadlessSuffix, &corev1.ServiceArgs{
		Metadata: metadata, Spec: &corev1.ServiceSpecArgs{
			ClusterIP: pulumi.String("None"),
			Selector:  selectInstance(roleFront, name),
			Ports:     corev1.ServicePortArray{tcpPort(portNameMetrics, portMetrics)},
		},
	}, opts...)
	if err != nil {
		return err
	}
	front.MetricsHost = pulumi.Sprintf("%s.%s.svc", service.Metadata.Name().Elem(), service.Metadata.Namespace().Elem())
	return nil
}
