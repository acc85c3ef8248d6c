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

// Engine is what scales a pool.
type Engine string

// Autoscaling engines.
const (
	EngineHPA  Engine = "hpa"  // a HorizontalPodAutoscaler on an external metric, which prometheus-adapter must serve
	EngineKEDA Engine = "keda" // a ScaledObject, which queries Prometheus itself
)

// AutoscalingArgs configures how one pool grows and shrinks.
type AutoscalingArgs struct {
	Namespace pulumi.StringInput
	// Engine is EngineHPA or EngineKEDA.
	Engine Engine
	// Pool to scale between its bounds. With EngineKEDA, a Min of 0 scales an idle pool to zero, and a request wakes it.
	Pool Pool
	// WorkloadKind and WorkloadName name the object to scale. Default kind: Deployment.
	WorkloadKind WorkloadKind
	WorkloadName pulumi.StringInput
	// QueryURL is where KEDA queries Prometheus.
	QueryURL pulumi.StringInput
	// QuietSeconds is how long the load must be low before the pool shrinks, up to 3600 (the HPA's own limit). Default:
	// 900.
	QuietSeconds int
}

// Autoscaling is one pool's autoscaler.
type Autoscaling struct {
	pulumi.ResourceState
}

const (
	// loadMetric counts requests in flight and queued. The queue alone would flap: it is 0 until every slot is taken.
	loadMetric = "ollama_requests_inflight"
	// wakeMetric is above 0 for two minutes after a request. In a pool with occasional requests, most polls find nothing
	// in flight.
	wakeMetric = "ollama_requests_per_second"
	// loadPercent is the target load in percent of a pod's slots. A new pod takes minutes to start, so it is requested
	// before the last slot is taken.
	loadPercent = 75
	// scaleUpPeriod is in seconds. A pool may double once in the time that a pod needs to load its model, and then see the
	// effect.
	scaleUpPeriod = 120
	// pollSeconds is how often KEDA checks whether an idle pool has requests.
	pollSeconds = 5
)

func (a AutoscalingArgs) withDefaults() *AutoscalingArgs {
	setDefault(&a.WorkloadKind, Deployment)
	setDefault(&a.QuietSeconds, 900)
	return &a
}

// NewAutoscaling creates the pool's autoscaler. The Deployment that it scales must not set replicas.
func NewAutoscaling(
	ctx *pulumi.Context, name string, args *AutoscalingArgs, opts ...pulumi.ResourceOption,
) (*Autoscaling, error) {
	a := args.withDefaults()
	if a.Engine != EngineHPA && a.Engine != EngineKEDA {
		return nil, fmt.Errorf("Autoscaling %s: engine is %q: use %s or %s", name, a.Engine, EngineHPA, EngineKEDA)
	}
	bounds := a.Pool.Replicas
	if bounds.Min < 0 || bounds.Idle() && a.Engine != EngineKEDA || bounds.Max < max(bounds.Min, 1) {
		return nil, fmt.Errorf(
			"Autoscaling %s: replicas are %d to %d: min must be at least 1 (0 with engine %s), and max at least min", name,
			bounds.Min, bounds.Max, EngineKEDA,
		)
	}
	autoscaling := &Autoscaling{}
	if err := ctx.RegisterComponentResourceV2("ollama-k8s:index:Autoscaling", name, pulumi.Map{
		"namespace": a.Namespace, "engine": pulumi.String(a.Engine), "min": pulumi.Int(bounds.Min),
		"max": pulumi.Int(bounds.Max),
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

// target returns the load that one pod should have. Tenths keep small pools exact: 75 % of one slot is 0.7, not 0.
func (a *AutoscalingArgs) target() string {
	return strconv.FormatFloat(float64(a.Pool.slots()*loadPercent/10)/10, 'f', 1, 64)
}

// scalingPolicy limits how many pods may be added or removed in a period.
type scalingPolicy struct {
	kind           string // Pods, or Percent of the current pods
	value, seconds int
}

// up and down are the same for both engines, because KEDA creates a HorizontalPodAutoscaler too.
func (a *AutoscalingArgs) up() []scalingPolicy {
	return []scalingPolicy{{"Pods", 1, scaleUpPeriod}, {"Percent", 100, scaleUpPeriod}} // the policy that allows more wins
}

func (a *AutoscalingArgs) down() []scalingPolicy {
	return []scalingPolicy{{"Pods", 1, a.QuietSeconds / 3}}
}

func (a *AutoscalingArgs) horizontalPodAutoscaler(
	ctx *pulumi.Context, name string, opts ...pulumi.ResourceOption,
) error {
	policies := func(list []scalingPolicy) (all autoscalingv2.HPAScalingPolicyArray) {
		for _, p := range list {
			all = append(all, &autoscalingv2.HPAScalingPolicyArgs{
				Type: pulumi.String(p.kind), Value: pulumi.Int(p.value), PeriodSeconds: pulumi.Int(p.seconds),
			})
		}
		return all
	}
	_, err := autoscalingv2.NewHorizontalPodAutoscaler(ctx, name, &autoscalingv2.HorizontalPodAutoscalerArgs{
		Metadata: named(a.Namespace, roleServer, name, name),
		Spec: &autoscalingv2.HorizontalPodAutoscalerSpecArgs{
			ScaleTargetRef: &autoscalingv2.CrossVersionObjectReferenceArgs{
				ApiVersion: pulumi.String("apps/v1"), Kind: pulumi.String(a.WorkloadKind), Name: a.WorkloadName,
			},
			MinReplicas: pulumi.Int(a.Pool.Replicas.Min),
			MaxReplicas: pulumi.Int(a.Pool.Replicas.Max),
			Metrics: autoscalingv2.MetricSpecArray{&autoscalingv2.MetricSpecArgs{
				// External, not Pods: the metric comes from the front, not from the scaled pods. If it is missing, the HPA leaves
				// the replicas as they are.
				Type: pulumi.String("External"),
				External: &autoscalingv2.ExternalMetricSourceArgs{
					Metric: &autoscalingv2.MetricIdentifierArgs{
						Name:     pulumi.String(loadMetric),
						Selector: &metav1.LabelSelectorArgs{MatchLabels: pulumi.StringMap{"pool": pulumi.String(a.Pool.Name)}},
					},
					Target: &autoscalingv2.MetricTargetArgs{
						Type: pulumi.String("AverageValue"), AverageValue: pulumi.String(a.target()),
					},
				},
			}},
			Behavior: &autoscalingv2.HorizontalPodAutoscalerBehaviorArgs{
				ScaleUp: &autoscalingv2.HPAScalingRulesArgs{
					StabilizationWindowSeconds: pulumi.Int(0), Policies: policies(a.up()),
				},
				ScaleDown: &autoscalingv2.HPAScalingRulesArgs{
					StabilizationWindowSeconds: pulumi.Int(a.QuietSeconds), Policies: policies(a.down()),
				},
			},
		},
	}, opts...)
	return err
}

func (a *AutoscalingArgs) scaledObject(ctx *pulumi.Context, name string, opts ...pulumi.ResourceOption) error {
	policies := func(list []scalingPolicy) (all pulumi.Array) {
		for _, p := range list {
			all = append(all, pulumi.Map{
				"type": pulumi.String(p.kind), "value": pulumi.Int(p.value), "periodSeconds": pulumi.Int(p.seconds),
			})
		}
		return all
	}
	trigger := func(metric, threshold string) pulumi.Map {
		return pulumi.Map{
			"type":       pulumi.String("prometheus"),
			"metricType": pulumi.String("AverageValue"),
			"metadata": pulumi.Map{
				"serverAddress": a.QueryURL,
				"query":         pulumi.Sprintf("sum(%s{namespace=%q,pool=%q})", metric, a.Namespace, a.Pool.Name),
				"threshold":     pulumi.String(threshold),
				// A missing value is not 0: a Prometheus that has just started has no data yet.
				"ignoreNullValues": pulumi.String("false"),
			},
		}
	}
	triggers := pulumi.Array{trigger(loadMetric, a.target())}
	if a.Pool.Replicas.Idle() {
		// The threshold is so high that it never asks for more than the one pod that keeps the pool awake.
		triggers = append(triggers, trigger(wakeMetric, "1000000"))
	}
	// No fallback is needed: without data, both KEDA and the HPA leave the replicas as they are.
	_, err := apiextensions.NewCustomResource(ctx, name, &apiextensions.CustomResourceArgs{
		ApiVersion: pulumi.String("keda.sh/v1alpha1"), Kind: pulumi.String("ScaledObject"),
		Metadata: named(a.Namespace, roleServer, name, name),
		OtherFields: kubernetes.UntypedArgs{"spec": pulumi.Map{
			"scaleTargetRef": pulumi.Map{
				"apiVersion": pulumi.String("apps/v1"), "kind": pulumi.String(a.WorkloadKind), "name": a.WorkloadName,
			},
			"minReplicaCount": pulumi.Int(a.Pool.Replicas.Min),
			"maxReplicaCount": pulumi.Int(a.Pool.Replicas.Max),
			"pollingInterval": pulumi.Int(pollSeconds),
			"cooldownPeriod":  pulumi.Int(a.QuietSeconds),
			// A new pool has never been active. Keep it for as long as one that was.
			"initialCooldownPeriod": pulumi.Int(a.QuietSeconds),
			"triggers":              triggers,
			"advanced": pulumi.Map{"horizontalPodAutoscalerConfig": pulumi.Map{"behavior": pulumi.Map{
				"scaleUp":   pulumi.Map{"stabilizationWindowSeconds": pulumi.Int(0), "policies": policies(a.up())},
				"scaleDown": pulumi.Map{"stabilizationWindowSeconds": pulumi.Int(a.QuietSeconds), "policies": policies(a.down())},
			}}},
		}},
	}, opts...)
	return err
}
