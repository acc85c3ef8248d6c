package components

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes"
	"github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/apiextensions"
	appsv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/apps/v1"
	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	networkingv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/networking/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"sigs.k8s.io/yaml"
)

// Prometheus modes.
const (
	PrometheusBundled  = "bundled"  // a small Prometheus of our own
	PrometheusOperator = "operator" // a PodMonitor and a PrometheusRule for an operator that is there already
)

// ObservabilityArgs says who scrapes the front and evaluates the rules.
type ObservabilityArgs struct {
	Namespace pulumi.StringInput
	// Mode is PrometheusBundled or PrometheusOperator. Default: PrometheusBundled.
	Mode string
	// Image of the bundled Prometheus.
	Image string
	// ReleaseLabel is the value of the label "release" by which an operator selects its monitors and rules. Default: no label.
	ReleaseLabel string
	// ServerURL is where the operator's Prometheus answers queries; autoscaling asks there. Unused when bundled.
	ServerURL string
	// MetricsHost and MetricsPort are the front's exporter: a name that resolves to every front pod, without the cluster's domain.
	MetricsHost pulumi.StringInput
	MetricsPort int
}

// Observability turns the front's own metrics into the ollama_* series, and shows them.
type Observability struct {
	pulumi.ResourceState

	// QueryURL is where PromQL is answered; empty when the operator's address was not given.
	QueryURL pulumi.StringOutput
}

// NewObservability makes the scrape, the recording rules and the dashboard.
func NewObservability(ctx *pulumi.Context, name string, args *ObservabilityArgs, opts ...pulumi.ResourceOption) (*Observability, error) {
	a := *args
	setDefault(&a.Mode, PrometheusBundled)
	if a.Mode != PrometheusBundled && a.Mode != PrometheusOperator {
		return nil, fmt.Errorf("Observability %s: mode is %q: use %s or %s", name, a.Mode, PrometheusBundled, PrometheusOperator)
	}

	observability := &Observability{}
	if err := ctx.RegisterComponentResourceV2("ollama-k8s:index:Observability", name, pulumi.Map{
		"namespace": a.Namespace, "mode": pulumi.String(a.Mode),
	}, observability, opts...); err != nil {
		return nil, err
	}
	parent := pulumi.Parent(observability)

	// Grafana's sidecar loads every ConfigMap with this label.
	dashboard := autonamed(a.Namespace, rolePrometheus, name)
	dashboard.Labels.(pulumi.StringMap)["grafana_dashboard"] = pulumi.String("1")
	if _, err := corev1.NewConfigMap(ctx, name+"-dashboard", &corev1.ConfigMapArgs{
		Metadata: dashboard, Data: pulumi.StringMap{"ollama.json": pulumi.String(file("dashboard.json"))},
	}, parent); err != nil {
		return nil, fmt.Errorf("creating the dashboard of %s: %w", name, err)
	}

	if a.Mode == PrometheusOperator {
		observability.QueryURL = pulumi.String(a.ServerURL).ToStringOutput()
		if err := a.operatorObjects(ctx, name, parent); err != nil {
			return nil, fmt.Errorf("creating the operator's objects of %s: %w", name, err)
		}
	} else if err := a.bundled(ctx, name, observability, parent); err != nil {
		return nil, fmt.Errorf("creating the Prometheus of %s: %w", name, err)
	}
	return observability, ctx.RegisterResourceOutputs(observability, pulumi.Map{"queryURL": observability.QueryURL})
}

func (a *ObservabilityArgs) bundled(ctx *pulumi.Context, name string, observability *Observability, opts ...pulumi.ResourceOption) error {
	config := a.MetricsHost.ToStringOutput().ApplyT(func(host string) (string, error) {
		return render("prometheus.yml.tmpl", map[string]any{"Host": host, "Port": a.MetricsPort, "TeamsPath": teamsMetricsPath})
	}).(pulumi.StringOutput)
	configMap, err := corev1.NewConfigMap(ctx, name+"-prometheus", &corev1.ConfigMapArgs{
		Metadata: autonamed(a.Namespace, rolePrometheus, name),
		Data:     pulumi.StringMap{"prometheus.yml": config, "rules.yml": pulumi.String(file("rules.yml"))},
	}, opts...)
	if err != nil {
		return err
	}
	if _, err := appsv1.NewDeployment(ctx, name+"-prometheus", &appsv1.DeploymentArgs{
		Metadata: named(a.Namespace, rolePrometheus, name, name+"-prometheus"),
		Spec: &appsv1.DeploymentSpecArgs{
			Replicas: pulumi.Int(1),
			Selector: &metav1.LabelSelectorArgs{MatchLabels: selectInstance(rolePrometheus, name)},
			Template: &corev1.PodTemplateSpecArgs{
				Metadata: &metav1.ObjectMetaArgs{Labels: labels(rolePrometheus, name)},
				Spec: &corev1.PodSpecArgs{
					AutomountServiceAccountToken: pulumi.Bool(false),
					SecurityContext:              restrictedPod(uidPrometheus),
					Containers:                   corev1.ContainerArray{a.container()},
					Volumes:                      corev1.VolumeArray{configVolume("config", configMap.Metadata.Name(), 0o444), scratch("data")},
				},
			},
		},
	}, opts...); err != nil {
		return err
	}
	metadata := named(a.Namespace, rolePrometheus, name, name+"-prometheus")
	metadata.Annotations = skipAwait()
	service, err := corev1.NewService(ctx, name+"-prometheus", &corev1.ServiceArgs{Metadata: metadata, Spec: &corev1.ServiceSpecArgs{
		Selector: selectInstance(rolePrometheus, name),
		Ports:    corev1.ServicePortArray{tcpPort(portNameHTTP, portPrometheus)},
	}}, opts...)
	if err != nil {
		return err
	}
	observability.QueryURL = pulumi.Sprintf("http://%s.%s.svc:%d", service.Metadata.Name().Elem(), service.Metadata.Namespace().Elem(), portPrometheus)
	return networkPolicy(ctx, name, a.Namespace, rolePrometheus, allow{
		ingress: networkingv1.NetworkPolicyIngressRuleArray{&networkingv1.NetworkPolicyIngressRuleArgs{
			From: anyNamespace(), Ports: networkingv1.NetworkPolicyPortArray{tcp(portPrometheus)}, // Grafana and KEDA live elsewhere
		}},
		egress: networkingv1.NetworkPolicyEgressRuleArray{dns(), &networkingv1.NetworkPolicyEgressRuleArgs{
			To: podsOf(roleFront), Ports: networkingv1.NetworkPolicyPortArray{tcp(a.MetricsPort)},
		}},
	}, opts...)
}

func (a *ObservabilityArgs) container() *corev1.ContainerArgs {
	return &corev1.ContainerArgs{
		Name:  pulumi.String("prometheus"),
		Image: pulumi.String(a.Image),
		Command: pulumi.ToStringArray([]string{
			"prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus",
			"--storage.tsdb.retention.time=2d", "--storage.tsdb.retention.size=1GB", // enough to scale by and to look back over a weekend's incident
			"--web.listen-address=:" + strconv.Itoa(portPrometheus),
		}),
		Ports:           corev1.ContainerPortArray{containerPort(portNameHTTP, portPrometheus)},
		ReadinessProbe:  httpProbe(portNameHTTP, "/-/ready", 5, 3),
		LivenessProbe:   httpProbe(portNameHTTP, "/-/healthy", 15, 4),
		Resources:       requests("100m", "512Mi"),
		SecurityContext: restrictedContainer(),
		VolumeMounts:    corev1.VolumeMountArray{mount("config", "/etc/prometheus", true), mount("data", "/prometheus", false)},
	}
}

func (a *ObservabilityArgs) operatorObjects(ctx *pulumi.Context, name string, opts ...pulumi.ResourceOption) error {
	metadata := func() *metav1.ObjectMetaArgs {
		m := named(a.Namespace, rolePrometheus, name, name)
		if a.ReleaseLabel != "" {
			m.Labels.(pulumi.StringMap)["release"] = pulumi.String(a.ReleaseLabel)
		}
		return m
	}
	if _, err := apiextensions.NewCustomResource(ctx, name+"-monitor", &apiextensions.CustomResourceArgs{
		ApiVersion: pulumi.String("monitoring.coreos.com/v1"), Kind: pulumi.String("PodMonitor"), Metadata: metadata(),
		OtherFields: kubernetes.UntypedArgs{"spec": pulumi.Map{
			"selector": pulumi.Map{"matchLabels": selectRole(roleFront)},
			"podMetricsEndpoints": pulumi.Array{
				pulumi.Map{"port": pulumi.String(portNameMetrics), "interval": pulumi.String("15s")},
				pulumi.Map{"port": pulumi.String(portNameMetrics), "interval": pulumi.String("15s"), "path": pulumi.String(teamsMetricsPath)},
			},
		}},
	}, opts...); err != nil {
		return err
	}
	rules, err := untyped(file("rules.yml"))
	if err != nil {
		return err
	}
	_, err = apiextensions.NewCustomResource(ctx, name+"-rules", &apiextensions.CustomResourceArgs{
		ApiVersion: pulumi.String("monitoring.coreos.com/v1"), Kind: pulumi.String("PrometheusRule"), Metadata: metadata(),
		OtherFields: kubernetes.UntypedArgs{"spec": rules},
	}, opts...)
	return err
}

// untyped reads YAML into a pulumi value, for the body of a custom resource.
func untyped(text string) (pulumi.Input, error) {
	asJSON, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		return nil, err
	}
	var value map[string]any
	if err := json.Unmarshal(asJSON, &value); err != nil {
		return nil, err
	}
	return pulumi.ToMap(value), nil
}
