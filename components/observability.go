package components

import (
	"fmt"

	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// PrometheusMode says which Prometheus scrapes the stack.
type PrometheusMode string

// Prometheus modes.
const (
	PrometheusBundled PrometheusMode = "bundled" // the stack's own small Prometheus
	// PodMonitors and PrometheusRules for an existing operator
	PrometheusOperator PrometheusMode = "operator"
)

// ObservabilityArgs configures what scrapes the stack and evaluates the rules.
type ObservabilityArgs struct {
	Namespace pulumi.StringInput
	// Mode is PrometheusBundled or PrometheusOperator. Default: PrometheusBundled.
	Mode PrometheusMode
	// Image of the bundled Prometheus, and of json_exporter.
	Image, ExporterImage string
	// RetentionDays is how long the bundled Prometheus keeps its data. Default: 2, enough to look back over an incident at
	// the weekend.
	RetentionDays int
	// Storage is the size of the bundled Prometheus' claim, such as 20Gi, and StorageClass its class. Default: no claim,
	// and a new pod starts without data.
	Storage, StorageClass string
	// ReleaseLabel is the value of the label "release" by which an operator selects its monitors and rules. Default: no
	// label.
	ReleaseLabel string
	// Annotations of the monitors, the rules and the dashboard, such as the folder into which Grafana's sidecar puts it.
	Annotations map[string]string
	// ServerURL is where the operator's Prometheus answers the queries of autoscaling. Unused when bundled.
	ServerURL string
	// MetricsHost and MetricsPort are the address of the front's exporter. The host resolves to every front pod, and is
	// without the cluster's domain.
	MetricsHost pulumi.StringInput
	MetricsPort int
	// Pools to scrape.
	Pools []Pool
	// WriterJobs begins the names of the store's Jobs: ModelStore.WriterJobs.
	WriterJobs pulumi.StringInput
	// QueueLength is how many requests may wait for one model.
	QueueLength int
	// DCGM is DCGMNone, DCGMExisting or DCGMDeploy. Default: DCGMNone.
	DCGM DCGMSource
	// DCGMNamespace is where the existing exporter runs. Default: gpu-operator.
	DCGMNamespace string
	// DCGMImage is the image of dcgm-exporter, and DCGMRuntimeClass the RuntimeClass with which it sees the GPUs. Default:
	// the cluster's default runtime.
	DCGMImage, DCGMRuntimeClass string
}

// Observability turns the front's metrics into the ollama_* series, and shows them on a dashboard.
type Observability struct {
	pulumi.ResourceState

	// QueryURL is where Prometheus answers queries. Empty if the operator's address is not given.
	QueryURL pulumi.StringOutput `pulumi:"queryURL"`
}

func (a ObservabilityArgs) withDefaults() *ObservabilityArgs {
	setDefault(&a.Mode, PrometheusBundled)
	setDefault(&a.RetentionDays, 2)
	setDefault(&a.DCGM, DCGMNone)
	setDefault(&a.DCGMNamespace, "gpu-operator")
	return &a
}

// NewObservability creates the scrape configuration, the recording rules and the dashboard.
func NewObservability(
	ctx *pulumi.Context, name string, args *ObservabilityArgs, opts ...pulumi.ResourceOption,
) (*Observability, error) {
	a := args.withDefaults()
	if a.Mode != PrometheusBundled && a.Mode != PrometheusOperator {
		return nil, fmt.Errorf(
			"Observability %s: mode is %q: use %s or %s", name, a.Mode, PrometheusBundled, PrometheusOperator,
		)
	}

	observability := &Observability{}
	if err := ctx.RegisterComponentResourceV2("ollama-k8s:index:Observability", name, pulumi.Map{
		"namespace": a.Namespace, "mode": pulumi.String(a.Mode),
	}, observability, opts...); err != nil {
		return nil, err
	}
	parent := pulumi.Parent(observability)

	// Grafana's sidecar loads every ConfigMap with this label.
	sidecar := pulumi.StringMap{"grafana_dashboard": pulumi.String("1")}
	dashboard := annotated(autonamed(a.Namespace, rolePrometheus, name, sidecar), pulumi.ToStringMap(a.Annotations))
	if _, err := corev1.NewConfigMap(ctx, name+"-dashboard", &corev1.ConfigMapArgs{
		Metadata: dashboard, Data: pulumi.StringMap{"ollama.json": pulumi.String(file("dashboard.json"))},
	}, parent); err != nil {
		return nil, fmt.Errorf("creating the dashboard of %s: %w", name, err)
	}

	var dcgmHost pulumi.StringInput = pulumi.String("")
	if a.DCGM == DCGMDeploy {
		host, err := a.dcgmExporter(ctx, name, parent)
		if err != nil {
			return nil, fmt.Errorf("creating the GPU exporter of %s: %w", name, err)
		}
		dcgmHost = host
	}

	if a.Mode == PrometheusOperator {
		observability.QueryURL = pulumi.String(a.ServerURL).ToStringOutput()
		if err := a.operatorObjects(ctx, name, parent); err != nil {
			return nil, fmt.Errorf("creating the operator's objects of %s: %w", name, err)
		}
	} else if err := a.bundled(ctx, name, dcgmHost, observability, parent); err != nil {
		return nil, fmt.Errorf("creating the Prometheus of %s: %w", name, err)
	}
	return observability, ctx.RegisterResourceOutputs(observability, pulumi.Map{"queryURL": observability.QueryURL})
}
