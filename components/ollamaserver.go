package components

import (
	"fmt"
	"strconv"

	appsv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/apps/v1"
	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	networkingv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/networking/v1"
	policyv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/policy/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// OllamaServerArgs says how one pool of Ollama pods runs.
type OllamaServerArgs struct {
	Namespace pulumi.StringInput
	// Image is an Ollama image.
	Image string
	// ClaimName is the store, mounted read-only.
	ClaimName pulumi.StringInput
	// SharedStore tells that the store mounts on several nodes at once (ReadWriteMany), so that a rolling update is possible.
	SharedStore bool
	// GPUs per pod. 0 makes a CPU pool. Default: 0.
	GPUs int
	// SpareGPU tells that the cluster has GPUs left for one more pod, so that an update starts the new pod before it stops the old. Default: false.
	SpareGPU bool
	// Replicas of the Deployment, or its minimum where Scaled. Default: 1.
	Replicas int
	// Scaled leaves the number of replicas to an autoscaler. Default: false.
	Scaled bool
	// ContextLength is the number of tokens each request may use. Default: 8192.
	ContextLength int
	// Parallel is the number of requests that one model answers at a time; each has a KV cache of its own. Default: 1.
	Parallel int
	// MaxLoadedModels that stay in memory together. Default: 1.
	MaxLoadedModels int
	// KeepAlive is how long an idle model stays loaded, a Go duration, or -1 for ever. Default: 1h.
	KeepAlive string
	// CPU and Memory requested for a pod; memory is its limit too. Defaults: 2 and 16Gi.
	CPU, Memory string
}

// OllamaServer is one pool: a Deployment, a Service for people and tools inside the namespace, and a headless Service from which the front
// learns each pod's address.
type OllamaServer struct {
	pulumi.ResourceState

	// DeploymentName is what an autoscaler scales.
	DeploymentName pulumi.StringOutput
	// ServiceName is the pool behind one address.
	ServiceName pulumi.StringOutput
	// PodsHost resolves to the address of every ready pod: service.namespace.svc, without the cluster's domain.
	PodsHost pulumi.StringOutput
	// Slots is the number of requests that one pod answers at a time, for each model.
	Slots int
}

const (
	// drainSeconds bounds how long a deleted pod may finish its answers: a long generation of 8k tokens at 10 tokens/s takes 820 s.
	drainSeconds = 900
	// serverTimeout covers image pull (several GB), drain of the former pod, and start.
	serverTimeout = "45m"
)

// NewOllamaServer makes the pool's objects and waits for its rollout.
func NewOllamaServer(ctx *pulumi.Context, name string, args *OllamaServerArgs, opts ...pulumi.ResourceOption) (*OllamaServer, error) {
	a := *args
	setDefault(&a.Replicas, 1)
	setDefault(&a.ContextLength, 8192)
	setDefault(&a.Parallel, 1)
	setDefault(&a.MaxLoadedModels, 1)
	setDefault(&a.KeepAlive, "1h")
	setDefault(&a.CPU, "2")
	setDefault(&a.Memory, "16Gi")
	if !a.SharedStore && a.Replicas > 1 {
		return nil, fmt.Errorf("OllamaServer %s: %d replicas need a store that several nodes can mount: use accessMode %s", name, a.Replicas, ReadWriteMany)
	}

	server := &OllamaServer{Slots: a.Parallel}
	if err := ctx.RegisterComponentResourceV2("ollama-k8s:index:OllamaServer", name, pulumi.Map{
		"namespace": a.Namespace, "image": pulumi.String(a.Image), "gpus": pulumi.Int(a.GPUs), "parallel": pulumi.Int(a.Parallel),
	}, server, opts...); err != nil {
		return nil, err
	}
	parent := pulumi.Parent(server)

	if err := networkPolicy(ctx, name, a.Namespace, roleServer, allow{
		// Only the front may ask, and a server asks nobody: nothing is pulled here, nothing is sent home.
		ingress: networkingv1.NetworkPolicyIngressRuleArray{&networkingv1.NetworkPolicyIngressRuleArgs{
			From: podsOf(roleFront), Ports: networkingv1.NetworkPolicyPortArray{tcp(portOllama)},
		}},
	}, parent); err != nil {
		return nil, fmt.Errorf("creating the network policy of %s: %w", name, err)
	}
	deployment, err := a.deployment(ctx, name, parent)
	if err != nil {
		return nil, fmt.Errorf("creating the deployment of %s: %w", name, err)
	}
	server.DeploymentName = deployment.Metadata.Name().Elem()
	if err := a.services(ctx, name, server, parent); err != nil {
		return nil, fmt.Errorf("creating the services of %s: %w", name, err)
	}
	if err := disruptionBudget(ctx, name, a.Namespace, roleServer, parent); err != nil {
		return nil, fmt.Errorf("creating the disruption budget of %s: %w", name, err)
	}
	return server, ctx.RegisterResourceOutputs(server, pulumi.Map{
		"deploymentName": server.DeploymentName, "serviceName": server.ServiceName, "podsHost": server.PodsHost, "slots": pulumi.Int(server.Slots),
	})
}

func (a *OllamaServerArgs) deployment(ctx *pulumi.Context, name string, opts ...pulumi.ResourceOption) (*appsv1.Deployment, error) {
	const script = "drain.sh"
	scripts, err := corev1.NewConfigMap(ctx, name, &corev1.ConfigMapArgs{
		Metadata: autonamed(a.Namespace, roleServer, name), Data: pulumi.StringMap{script: pulumi.String(file(script))},
	}, opts...)
	if err != nil {
		return nil, err
	}
	spec := &appsv1.DeploymentSpecArgs{
		Selector:                &metav1.LabelSelectorArgs{MatchLabels: selectInstance(roleServer, name)},
		Strategy:                a.strategy(),
		ProgressDeadlineSeconds: pulumi.Int(2400), // 40 min, within serverTimeout: drain of the old pod (15 min) and a slow image pull
		Template: &corev1.PodTemplateSpecArgs{
			Metadata: &metav1.ObjectMetaArgs{Labels: labels(roleServer, name)},
			Spec: &corev1.PodSpecArgs{
				AutomountServiceAccountToken:  pulumi.Bool(false),
				SecurityContext:               restrictedPod(uidOllama),
				TerminationGracePeriodSeconds: pulumi.Int(drainSeconds + 30),
				Containers:                    corev1.ContainerArray{a.container(script)},
				Volumes: corev1.VolumeArray{
					claimVolume("models", a.ClaimName, true), scratch("home"), scratch("tmp"), configVolume("scripts", scripts.Metadata.Name(), 0o444),
				},
			},
		},
	}
	if a.GPUs > 0 {
		spec.Template.(*corev1.PodTemplateSpecArgs).Spec.(*corev1.PodSpecArgs).Tolerations = tolerateGPU()
	}
	opts = append([]pulumi.ResourceOption{pulumi.Timeouts(&pulumi.CustomTimeouts{Create: serverTimeout, Update: serverTimeout, Delete: serverTimeout})}, opts...)
	if a.Scaled {
		opts = append(opts, pulumi.IgnoreChanges([]string{"spec.replicas"})) // or each update would reset what the autoscaler decided
	} else {
		spec.Replicas = pulumi.Int(a.Replicas)
	}
	return appsv1.NewDeployment(ctx, name, &appsv1.DeploymentArgs{Metadata: named(a.Namespace, roleServer, name, name), Spec: spec}, opts...)
}

// strategy never asks for a second volume or GPU that may not exist: that rollout would wait for ever.
func (a *OllamaServerArgs) strategy() *appsv1.DeploymentStrategyArgs {
	if !a.SharedStore {
		return &appsv1.DeploymentStrategyArgs{Type: pulumi.String("Recreate")}
	}
	surge, unavailable := 0, 1
	if a.SpareGPU {
		surge, unavailable = 1, 0
	}
	return &appsv1.DeploymentStrategyArgs{Type: pulumi.String("RollingUpdate"), RollingUpdate: &appsv1.RollingUpdateDeploymentArgs{
		MaxSurge: pulumi.Int(surge), MaxUnavailable: pulumi.Int(unavailable),
	}}
}

func (a *OllamaServerArgs) container(drain string) *corev1.ContainerArgs {
	vars := env(
		"HOME", "/home/ollama",
		"OLLAMA_HOST", fmt.Sprintf("0.0.0.0:%d", portOllama),
		"OLLAMA_MODELS", modelsPath,
		"OLLAMA_NOPRUNE", "1", // the store is the writer's
		"OLLAMA_CONTEXT_LENGTH", strconv.Itoa(a.ContextLength), // unset, it would depend on the VRAM found
		"OLLAMA_NUM_PARALLEL", strconv.Itoa(a.Parallel),
		"OLLAMA_MAX_LOADED_MODELS", strconv.Itoa(a.MaxLoadedModels),
		"OLLAMA_KEEP_ALIVE", a.KeepAlive,
	)
	resources := requests(a.CPU, a.Memory)
	if a.GPUs > 0 {
		gpus := pulumi.String(strconv.Itoa(a.GPUs))
		resources.Requests.(pulumi.StringMap)[gpuResource] = gpus
		resources.Limits.(pulumi.StringMap)[gpuResource] = gpus
	} else {
		vars = append(vars, env("NVIDIA_VISIBLE_DEVICES", "void")...) // the image asks for all GPUs of the node
	}
	return &corev1.ContainerArgs{
		Name:    pulumi.String("ollama"),
		Image:   pulumi.String(a.Image),
		Command: pulumi.ToStringArray([]string{"ollama", "serve"}),
		Env:     vars,
		Ports:   corev1.ContainerPortArray{containerPort(portNameHTTP, portOllama)},
		// A start takes a second or two; 60 x 5 s leave room for a GPU that is slow to wake.
		StartupProbe:    httpProbe(portNameHTTP, "/api/version", 5, 60),
		ReadinessProbe:  httpProbe(portNameHTTP, "/api/version", 5, 3),
		LivenessProbe:   httpProbe(portNameHTTP, "/api/version", 20, 6), // 2 min: a busy server answers late, a dead one never
		Lifecycle:       &corev1.LifecycleArgs{PreStop: &corev1.LifecycleHandlerArgs{Exec: &corev1.ExecActionArgs{Command: pulumi.ToStringArray([]string{"sh", "/etc/ollama-k8s/" + drain, strconv.Itoa(portOllama), strconv.Itoa(drainSeconds)})}}},
		Resources:       resources,
		SecurityContext: restrictedContainer(),
		VolumeMounts: corev1.VolumeMountArray{
			mount("models", modelsPath, true), mount("home", "/home/ollama", false), mount("tmp", "/tmp", false), mount("scripts", "/etc/ollama-k8s", true),
		},
	}
}

func (a *OllamaServerArgs) services(ctx *pulumi.Context, name string, server *OllamaServer, opts ...pulumi.ResourceOption) error {
	service := func(suffix string, spec *corev1.ServiceSpecArgs) (*corev1.Service, error) {
		metadata := named(a.Namespace, roleServer, name, name+suffix)
		metadata.Annotations = skipAwait() // the Deployment's rollout tells; its pods may wait hours for the store
		spec.Selector = selectInstance(roleServer, name)
		spec.Ports = corev1.ServicePortArray{tcpPort(portNameHTTP, portOllama)}
		return corev1.NewService(ctx, name+suffix, &corev1.ServiceArgs{Metadata: metadata, Spec: spec}, opts...)
	}
	pool, err := service("", &corev1.ServiceSpecArgs{})
	if err != nil {
		return err
	}
	pods, err := service("-pods", &corev1.ServiceSpecArgs{ClusterIP: pulumi.String("None")})
	if err != nil {
		return err
	}
	server.ServiceName = pool.Metadata.Name().Elem()
	server.PodsHost = pulumi.Sprintf("%s.%s.svc", pods.Metadata.Name().Elem(), pods.Metadata.Namespace().Elem())
	return nil
}

// disruptionBudget lets one pod at a time be drained. maxUnavailable rather than minAvailable: with one replica, minAvailable 1 blocks every drain.
func disruptionBudget(ctx *pulumi.Context, name string, namespace pulumi.StringInput, r role, opts ...pulumi.ResourceOption) error {
	_, err := policyv1.NewPodDisruptionBudget(ctx, name, &policyv1.PodDisruptionBudgetArgs{
		Metadata: named(namespace, r, name, name),
		Spec: &policyv1.PodDisruptionBudgetSpecArgs{
			MaxUnavailable:             pulumi.Int(1),
			UnhealthyPodEvictionPolicy: pulumi.String("AlwaysAllow"), // a pod that crashes must not keep its node from being drained
			Selector:                   &metav1.LabelSelectorArgs{MatchLabels: selectInstance(r, name)},
		},
	}, opts...)
	return err
}

// setDefault gives a field that was left at its zero value its default.
func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
