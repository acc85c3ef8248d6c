package components

import (
	"fmt"
	"strconv"

	"github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes"
	"github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/apiextensions"
	autoscalingv2 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/autoscaling/v2"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// Autoscaling engines.
const (
	EngineHPA  = "hpa"  // a HorizontalPodAutoscaler on an external metric, which prometheus-adapter must serve
	EngineKEDA = "keda" // a ScaledObject, which asks Prometheus itself
)

// AutoscalingArgs says how one pool grows and shrinks.
type AutoscalingArgs struct {
	Namespace pulumi.StringInput
	// Engine is EngineHPA or EngineKEDA.
	Engine string
	// Pool is the value of the metrics' label "pool".
	Pool string
	// WorkloadKind and WorkloadName are what is scaled. Default kind: Deployment.
	WorkloadKind string
	WorkloadName pulumi.StringInput
	// Min and Max replicas.
	Min, Max int
	// Slots is the number of requests that one pod answers at a time, for each model.
	Slots int
	// QueryURL is where KEDA asks Prometheus.
	QueryURL pulumi.StringInput
}

// Autoscaling is one pool's autoscaler.
type Autoscaling struct {
	pulumi.ResourceState
}

const (
	// loadMetric counts requests in flight and queued: a queue alone is 0 until every slot is taken, and would flap.
	loadMetric = "ollama_requests_inflight"
	// loadPercent of a pod's slots is the target: a new pod takes minutes to start, so ask for it before the last slot is taken.
	loadPercent = 75
	// Up at once, one pod in 2 min (a pod needs about that to load its model); down after 15 quiet minutes, one pod in 5 min.
	scaleUpPeriod, scaleDownPeriod, scaleDownWindow = 120, 300, 900
)

// NewAutoscaling makes the pool's autoscaler. The Deployment that it scales must leave its replicas alone.
func NewAutoscaling(ctx *pulumi.Context, name string, args *AutoscalingArgs, opts ...pulumi.ResourceOption) (*Autoscaling, error) {
	a := *args
	if a.Engine != EngineHPA && a.Engine != EngineKEDA {
		return nil, fmt.Errorf("Autoscaling %s: engine is %q: use %s or %s", name, a.Engine, EngineHPA, EngineKEDA)
	}
	if a.Min < 1 || a.Max < a.Min {
		return nil, fmt.Errorf("Autoscaling %s: replicas are %d to %d: min must be at least 1, max at least min", name, a.Min, a.Max)
	}

	setDefault(&a.WorkloadKind, "Deployment")
	autoscaling := &Autoscaling{}
	if err := ctx.RegisterComponentResourceV2("ollama-k8s:index:Autoscaling", name, pulumi.Map{
		"namespace": a.Namespace, "engine": pulumi.String(a.Engine), "min": pulumi.Int(a.Min), "max": pulumi.Int(a.Max),
	}, autoscaling, opts...); err != nil {
		return nil, err
	}
	scaler := a.horizontalPodAutoscaler
	if a.Engine == EngineKEDA {
		scaler = a.scaledObject
	}
	if err := scaler(ctx, name, pulumi.Parent(autoscaling)); err != nil {
		return nil, fmt.Errorf("creating the autoscaler of %s: %w", name, err)
	}
	return autoscaling, ctx.RegisterResourceOutputs(autoscaling, pulumi.Map{})
}

// target is the load that one pod should have. Tenths keep small pools exact: 75 % of one slot is 0.7, not 0.
func (a *AutoscalingArgs) target() string {
	return strconv.FormatFloat(float64(a.Slots*loadPercent/10)/10, 'f', 1, 64)
}

func (a *AutoscalingArgs) horizontalPodAutoscaler(ctx *pulumi.Context, name string, opts ...pulumi.ResourceOption) error {
	policy := func(period int) autoscalingv2.HPAScalingPolicyArray {
		return autoscalingv2.HPAScalingPolicyArray{&autoscalingv2.HPAScalingPolicyArgs{
			Type: pulumi.String("Pods"), Value: pulumi.Int(1), PeriodSeconds: pulumi.Int(period),
		}}
	}
	_, err := autoscalingv2.NewHorizontalPodAutoscaler(ctx, name, &autoscalingv2.HorizontalPodAutoscalerArgs{
		Metadata: named(a.Namespace, roleServer, name, name),
		Spec: &autoscalingv2.HorizontalPodAutoscalerSpecArgs{
			ScaleTargetRef: &autoscalingv2.CrossVersionObjectReferenceArgs{
				ApiVersion: pulumi.String("apps/v1"), Kind: pulumi.String(a.WorkloadKind), Name: a.WorkloadName,
			},
			MinReplicas: pulumi.Int(a.Min),
			MaxReplicas: pulumi.Int(a.Max),
			Metrics: autoscalingv2.MetricSpecArray{&autoscalingv2.MetricSpecArgs{
				// External, not Pods: the number is the front's, not the scaled pods'.
				Type: pulumi.String("External"),
				External: &autoscalingv2.ExternalMetricSourceArgs{
					Metric: &autoscalingv2.MetricIdentifierArgs{
						Name:     pulumi.String(loadMetric),
						Selector: &metav1.LabelSelectorArgs{MatchLabels: pulumi.StringMap{"pool": pulumi.String(a.Pool)}},
					},
					Target: &autoscalingv2.MetricTargetArgs{Type: pulumi.String("AverageValue"), AverageValue: pulumi.String(a.target())},
				},
			}},
			Behavior: &autoscalingv2.HorizontalPodAutoscalerBehaviorArgs{
				ScaleUp:   &autoscalingv2.HPAScalingRulesArgs{StabilizationWindowSeconds: pulumi.Int(0), Policies: policy(scaleUpPeriod)},
				ScaleDown: &autoscalingv2.HPAScalingRulesArgs{StabilizationWindowSeconds: pulumi.Int(scaleDownWindow), Policies: policy(scaleDownPeriod)},
			},
		},
	}, opts...)
	return err
}

func (a *AutoscalingArgs) scaledObject(ctx *pulumi.Context, name string, opts ...pulumi.ResourceOption) error {
	policy := func(period int) pulumi.Array {
		return pulumi.Array{pulumi.Map{"type": pulumi.String("Pods"), "value": pulumi.Int(1), "periodSeconds": pulumi.Int(period)}}
	}
	_, err := apiextensions.NewCustomResource(ctx, name, &apiextensions.CustomResourceArgs{
		ApiVersion: pulumi.String("keda.sh/v1alpha1"), Kind: pulumi.String("ScaledObject"),
		Metadata: named(a.Namespace, roleServer, name, name),
		OtherFields: kubernetes.UntypedArgs{"spec": pulumi.Map{
			"scaleTargetRef":  pulumi.Map{"apiVersion": pulumi.String("apps/v1"), "kind": pulumi.String(a.WorkloadKind), "name": a.WorkloadName},
			"minReplicaCount": pulumi.Int(a.Min),
			"maxReplicaCount": pulumi.Int(a.Max),
			"triggers": pulumi.Array{pulumi.Map{
				"type":       pulumi.String("prometheus"),
				"metricType": pulumi.String("AverageValue"),
				"metadata": pulumi.Map{
					"serverAddress": a.QueryURL,
					"query":         pulumi.Sprintf("sum(%s{pool=%q})", loadMetric, a.Pool),
					"threshold":     pulumi.String(a.target()),
				},
			}},
			"advanced": pulumi.Map{"horizontalPodAutoscalerConfig": pulumi.Map{"behavior": pulumi.Map{
				"scaleUp":   pulumi.Map{"stabilizationWindowSeconds": pulumi.Int(0), "policies": policy(scaleUpPeriod)},
				"scaleDown": pulumi.Map{"stabilizationWindowSeconds": pulumi.Int(scaleDownWindow), "policies": policy(scaleDownPeriod)},
			}}},
		}},
	}, opts...)
	return err
}
