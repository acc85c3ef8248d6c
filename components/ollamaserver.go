package components

import (
	"fmt"
	"strconv"

	appsv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/apps/v1"
	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	networkingv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/networking/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// OllamaServerArgs configures one pool of Ollama pods.
type OllamaServerArgs struct {
	Namespace pulumi.StringInput
	// Image is an Ollama image.
	Image string
	// Store is the ModelStore's Mount, or your own claim that holds models in Ollama's layout.
	Store StoreMount
	// Placement and GPUs of the pods. Default: a CPU pool on any node.
	Placement Placement
	// Replicas of the pool. Default: one pod.
	Replicas Replicas
	// ContextLength is the number of tokens each request may use. Default: 8192.
	ContextLength int
	// Parallel is the number of requests that one model answers at a time. Each takes its own KV cache. Default: 1.
	Parallel int
	// KVCacheType is f16, q8_0 or q4_0. Default: f16.
	KVCacheType string
	// MaxLoadedModels is how many models stay in memory together. Default: 1.
	MaxLoadedModels int
	// KeepAlive is how long an idle model stays loaded: a Go duration, or -1 for forever. Default: 1h.
	KeepAlive string
	// CPU and Memory are the requests of a pod. Memory is its limit too. Defaults: 2 and 16Gi.
	CPU, Memory string
	// Queue is the Kueue LocalQueue that admits the pods. Default: none, and the pods start at once.
	Queue pulumi.StringInput
	// DrainSeconds is how long a deleted pod may finish its answers: the longest time that the front lets a request last.
	// Default: 3600.
	DrainSeconds int
}

// OllamaServer is one pool: a Deployment (or a StatefulSet if each pod has its own claim), a Service for people and
// tools inside the namespace, and a headless Service from which the front learns the pods' addresses.
type OllamaServer struct {
	pulumi.ResourceState

	// WorkloadKind and WorkloadName name the object that an autoscaler scales. The name is also the value of the pods'
	// label app.kubernetes.io/instance.
	WorkloadKind WorkloadKind        `pulumi:"workloadKind"`
	WorkloadName pulumi.StringOutput `pulumi:"workloadName"`
	// ServiceName is the Service that balances over the pool.
	ServiceName pulumi.StringOutput `pulumi:"serviceName"`
	// PodsHost resolves to the address of every ready pod: service.namespace.svc, without the cluster's domain.
	PodsHost pulumi.StringOutput `pulumi:"podsHost"`
}

// WorkloadKind is the kind of object that creates a pool's pods.
type WorkloadKind string

// Kinds of workloads.
const (
	Deployment  WorkloadKind = "Deployment"
	StatefulSet WorkloadKind = "StatefulSet" // each pod has its own store
)

func (a OllamaServerArgs) withDefaults() *OllamaServerArgs {
	a.Replicas = a.Replicas.withDefaults()
	setDefault(&a.ContextLength, 8192)
	setDefault(&a.Parallel, 1)
	setDefault(&a.MaxLoadedModels, 1)
	setDefault(&a.KeepAlive, "1h")
	setDefault(&a.CPU, "2")
	setDefault(&a.Memory, "16Gi")
	setDefault(&a.KVCacheType, "f16")
	setDefault(&a.DrainSeconds, 3600)
	return &a
}

// NewOllamaServer creates the pool's objects and waits for its rollout.
func NewOllamaServer(
	ctx *pulumi.Context, name string, args *OllamaServerArgs, opts ...pulumi.ResourceOption,
) (*OllamaServer, error) {
	a := args.withDefaults()
	if err := a.Placement.GPU.validate(); err != nil {
		return nil, fmt.Errorf("OllamaServer %s: %w", name, err)
	}
	if !a.Store.Shared && a.Replicas.Max > 1 {
		return nil, fmt.Errorf(
			"OllamaServer %s: %d replicas need a store that several nodes can mount: use accessMode %s", name, a.Replicas.Max,
			ReadWriteMany,
		)
	}

	server := &OllamaServer{}
	if err := ctx.RegisterComponentResourceV2("ollama-k8s:index:OllamaServer", name, pulumi.Map{
		"namespace": a.Namespace, "image": pulumi.String(a.Image), "gpus": pulumi.Int(a.Placement.GPU.Count),
		"parallel": pulumi.Int(a.Parallel),
	}, server, opts...); err != nil {
		return nil, err
	}
	parent := pulumi.Parent(server)

	rules := allow{
		// The front sends requests, and Prometheus and json_exporter read what is loaded. A server opens no connections: it
		// pulls nothing and reports nothing.
		ingress: networkingv1.NetworkPolicyIngressRuleArray{&networkingv1.NetworkPolicyIngressRuleArgs{
			From: podsOf(roleFront, rolePrometheus, roleExporter), Ports: networkingv1.NetworkPolicyPortArray{tcp(portOllama)},
		}},
	}
	if a.Store.PerReplica != nil {
		rules.egress = anywhere() // its init container pulls, and a policy covers the whole pod
	}
	if err := networkPolicy(ctx, name, a.Namespace, roleServer, rules, parent); err != nil {
		return nil, fmt.Errorf("creating the network policy of %s: %w", name, err)
	}
	if err := a.services(ctx, name, server, parent); err != nil {
		return nil, fmt.Errorf("creating the services of %s: %w", name, err)
	}
	if err := a.workload(ctx, name, server, parent); err != nil {
		return nil, fmt.Errorf("creating the pods of %s: %w", name, err)
	}
	if err := disruptionBudget(ctx, name, a.Namespace, roleServer, parent); err != nil {
		return nil, fmt.Errorf("creating the disruption budget of %s: %w", name, err)
	}
	return server, ctx.RegisterResourceOutputs(server, pulumi.Map{
		"workloadKind": pulumi.String(server.WorkloadKind),
		"workloadName": server.WorkloadName, "serviceName": server.ServiceName, "podsHost": server.PodsHost,
	})
}

// workload creates the Deployment, or the StatefulSet if each pod has its own store.
func (a *OllamaServerArgs) workload(
	ctx *pulumi.Context, name string, server *OllamaServer, opts ...pulumi.ResourceOption,
) error {
	const script = "drain.sh"
	scripts, err := corev1.NewConfigMap(ctx, name, &corev1.ConfigMapArgs{
		Metadata: autonamed(a.Namespace, roleServer, name), Immutable: pulumi.Bool(true),
		Data: pulumi.StringMap{script: pulumi.String(file(script))},
	}, opts...)
	if err != nil {
		return err
	}
	pods := podsOfServer{
		metadata: a.workloadMetadata(name),
		selector: &metav1.LabelSelectorArgs{MatchLabels: selectInstance(roleServer, name)},
		template: a.podTemplate(name, script, scripts.Metadata.Name()),
	}
	if a.Replicas.Scaled() {
		// Without this, each update would reset what the autoscaler decided.
		opts = append(opts, pulumi.IgnoreChanges([]string{"spec.replicas"}))
	} else {
		pods.replicas = pulumi.Int(a.Replicas.Min)
	}
	if a.Store.PerReplica != nil {
		server.WorkloadKind = StatefulSet
		server.WorkloadName, err = a.statefulSet(ctx, name, pods, opts...)
	} else {
		server.WorkloadKind = Deployment
		server.WorkloadName, err = a.deployment(ctx, name, pods, opts...)
	}
	return err
}

// podsOfServer holds what a Deployment and a StatefulSet have in common.
type podsOfServer struct {
	metadata *metav1.ObjectMetaArgs
	replicas pulumi.IntPtrInput // nil leaves them to an autoscaler
	selector *metav1.LabelSelectorArgs
	template *corev1.PodTemplateSpecArgs
}

func (a *OllamaServerArgs) workloadMetadata(name string) *metav1.ObjectMetaArgs {
	queue := pulumi.StringMap{}
	if a.Queue != nil {
		queue[queueLabel] = a.Queue
	}
	metadata := named(a.Namespace, roleServer, name, name, queue)
	if !a.Replicas.Scaled() {
		// Take over the number from an autoscaler or a person that set it before. Otherwise Kubernetes reports a conflict.
		metadata.Annotations = pulumi.StringMap{"pulumi.com/patchForce": pulumi.String("true")}
	}
	return metadata
}

func (a *OllamaServerArgs) podTemplate(name, script string, scripts pulumi.StringPtrInput) *corev1.PodTemplateSpecArgs {
	volumes := corev1.VolumeArray{scratch("tmp"), configVolume("scripts", scripts, 0o444)}
	pod := &corev1.PodSpecArgs{
		AutomountServiceAccountToken:  pulumi.Bool(false),
		SecurityContext:               restrictedPod(uidOllama),
		TerminationGracePeriodSeconds: pulumi.Int(a.DrainSeconds + 30),
		TopologySpreadConstraints:     spread(roleServer, name),
		Containers:                    corev1.ContainerArray{a.ollamaContainer(script)},
	}
	if store := a.Store.PerReplica; store != nil {
		pod.InitContainers = store.InitContainers
		volumes = append(append(volumes, scratch(HomeVolume)), store.Volumes...)
	} else {
		volumes = append(volumes, claimVolume(StoreVolume, a.Store.ClaimName, true), scratch(HomeVolume))
	}
	pod.Volumes = volumes
	podLabels := labels(roleServer, name)
	if a.Store.Together != "" {
		podLabels[storeLabel] = pulumi.String(a.Store.Together)
	}
	a.Placement.apply(pod, a.Store.Together)
	return podTemplate(podLabels, pod)
}

func (a *OllamaServerArgs) statefulSet(
	ctx *pulumi.Context, name string, pods podsOfServer, opts ...pulumi.ResourceOption,
) (pulumi.StringOutput, error) {
	store := a.Store.PerReplica
	set, err := appsv1.NewStatefulSet(ctx, name, &appsv1.StatefulSetArgs{
		Metadata: pods.metadata,
		Spec: &appsv1.StatefulSetSpecArgs{
			Replicas: pods.replicas, Selector: pods.selector, Template: pods.template,
			ServiceName:          pulumi.String(name + HeadlessSuffix),
			PodManagementPolicy:  pulumi.String("Parallel"), // the pods do not depend on each other
			VolumeClaimTemplates: corev1.PersistentVolumeClaimTypeArray{store.Claim},
			PersistentVolumeClaimRetentionPolicy: &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicyArgs{
				// Scaling up must not download the models again.
				WhenScaled: pulumi.String("Retain"), WhenDeleted: pulumi.String(store.whenDeleted()),
			},
		},
	}, append(opts, a.timeouts(fillSeconds))...)
	if err != nil {
		return pulumi.StringOutput{}, err
	}
	return set.Metadata.Name().Elem(), nil
}

func (a *OllamaServerArgs) deployment(
	ctx *pulumi.Context, name string, pods podsOfServer, opts ...pulumi.ResourceOption,
) (pulumi.StringOutput, error) {
	deployment, err := appsv1.NewDeployment(ctx, name, &appsv1.DeploymentArgs{
		Metadata: pods.metadata,
		Spec: &appsv1.DeploymentSpecArgs{
			Replicas: pods.replicas, Selector: pods.selector, Template: pods.template, Strategy: a.strategy(),
			// Kubernetes reports the reason before Pulumi gives up.
			ProgressDeadlineSeconds: pulumi.Int(a.DrainSeconds + startSeconds - 60),
		},
	}, append(opts, a.timeouts(0))...)
	if err != nil {
		return pulumi.StringOutput{}, err
	}
	return deployment.Metadata.Name().Elem(), nil
}

// timeouts returns how long Pulumi waits for the pods. fill is the additional time in which they fill a store.
func (a *OllamaServerArgs) timeouts(fill int) pulumi.ResourceOption {
	drained := a.DrainSeconds + startSeconds
	return pulumi.Timeouts(&pulumi.CustomTimeouts{
		Create: seconds(drained + fill), Update: seconds(drained + fill), Delete: seconds(drained),
	})
}

// strategy never asks for a second volume or GPU that may not exist, because that rollout would wait forever.
func (a *OllamaServerArgs) strategy() *appsv1.DeploymentStrategyArgs {
	if !a.Store.Shared {
		return &appsv1.DeploymentStrategyArgs{Type: pulumi.String("Recreate")}
	}
	unavailable := 1
	if a.Replicas.Surge > 0 {
		unavailable = 0
	}
	return &appsv1.DeploymentStrategyArgs{
		Type: pulumi.String("RollingUpdate"), RollingUpdate: &appsv1.RollingUpdateDeploymentArgs{
			MaxSurge: pulumi.Int(a.Replicas.Surge), MaxUnavailable: pulumi.Int(unavailable),
		},
	}
}

// ollamaContainer returns the container of the server. drain is the script that keeps a deleted pod until its answers
// are done.
func (a *OllamaServerArgs) ollamaContainer(drain string) *corev1.ContainerArgs {
	vars := env(
		"HOME", "/home/ollama",
		"OLLAMA_HOST", fmt.Sprintf("0.0.0.0:%d", portOllama),
		"OLLAMA_MODELS", StorePath,
		"OLLAMA_NOPRUNE", "1", // only the writer changes the store
		"OLLAMA_CONTEXT_LENGTH", strconv.Itoa(a.ContextLength), // if unset, it depends on the VRAM
		"OLLAMA_NUM_PARALLEL", strconv.Itoa(a.Parallel),
		"OLLAMA_FLASH_ATTENTION", "1", // the memory plan assumes it, and a quantized cache needs it
		"OLLAMA_KV_CACHE_TYPE", a.KVCacheType,
		"OLLAMA_MAX_LOADED_MODELS", strconv.Itoa(a.MaxLoadedModels),
		"OLLAMA_KEEP_ALIVE", a.KeepAlive,
	)
	requested := pulumi.StringMap{"cpu": pulumi.String(a.CPU), "memory": pulumi.String(a.Memory)}
	limits := pulumi.StringMap{"memory": pulumi.String(a.Memory)}
	if gpu := a.Placement.GPU; gpu.Count > 0 {
		gpus := pulumi.String(strconv.Itoa(gpu.Count))
		requested[gpu.Resource()], limits[gpu.Resource()] = gpus, gpus
		if gpu.Count > 1 {
			// Spread over all GPUs, as planned, instead of packing onto the emptiest.
			vars = append(vars, env("OLLAMA_SCHED_SPREAD", "1")...)
		}
	}
	if gpu := a.Placement.GPU; gpu.Count == 0 || gpu.vendor() == AMD {
		vars = append(vars, env("NVIDIA_VISIBLE_DEVICES", "void")...) // the image requests all GPUs of the node
	}
	return &corev1.ContainerArgs{
		Name:    pulumi.String("ollama"),
		Image:   pulumi.String(a.Image),
		Command: pulumi.ToStringArray([]string{"ollama", "serve"}),
		Env:     vars,
		Ports:   corev1.ContainerPortArray{containerPort(portNameHTTP, portOllama)},
		// A start takes a second or two; 60 x 5 s leave room for a GPU that is slow to wake.
		StartupProbe:   httpProbe(portNameHTTP, "/api/version", 5, 60),
		ReadinessProbe: httpProbe(portNameHTTP, "/api/version", 5, 3),
		// 2 min: a busy server answers late, a dead one never
		LivenessProbe: httpProbe(portNameHTTP, "/api/version", 20, 6),
		Lifecycle: &corev1.LifecycleArgs{PreStop: &corev1.LifecycleHandlerArgs{Exec: &corev1.ExecActionArgs{
			Command: pulumi.ToStringArray([]string{
				"sh", "/etc/ollama-k8s/" + drain, strconv.Itoa(portOllama), strconv.Itoa(a.DrainSeconds),
			}),
		}}},
		Resources:       &corev1.ResourceRequirementsArgs{Requests: requested, Limits: limits},
		SecurityContext: restrictedContainer(),
		VolumeMounts: corev1.VolumeMountArray{
			mount(StoreVolume, StorePath, true), mount(HomeVolume, "/home/ollama", false), mount("tmp", "/tmp", false),
			mount("scripts", "/etc/ollama-k8s", true),
		},
	}
}

func (a *OllamaServerArgs) services(
	ctx *pulumi.Context, name string, server *OllamaServer, opts ...pulumi.ResourceOption,
) error {
	service := func(suffix string, spec *corev1.ServiceSpecArgs) (*corev1.Service, error) {
		metadata := named(a.Namespace, roleServer, name, name+suffix)
		metadata.Annotations = skipAwait() // the rollout reports readiness; the pods may wait hours for the store
		spec.Selector = selectInstance(roleServer, name)
		spec.Ports = corev1.ServicePortArray{tcpPort(portNameHTTP, portOllama)}
		return corev1.NewService(ctx, name+suffix, &corev1.ServiceArgs{Metadata: metadata, Spec: spec}, opts...)
	}
	pool, err := service("", &corev1.ServiceSpecArgs{})
	if err != nil {
		return err
	}
	pods, err := service(HeadlessSuffix, &corev1.ServiceSpecArgs{ClusterIP: pulumi.String("None")})
	if err != nil {
		return err
	}
	server.ServiceName = pool.Metadata.Name().Elem()
	server.PodsHost = pulumi.Sprintf("%s.%s.svc", pods.Metadata.Name().Elem(), pods.Metadata.Namespace().Elem())
	return nil
}
