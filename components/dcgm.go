package components

import (
	"strconv"

	appsv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/apps/v1"
	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	networkingv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/networking/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// DCGMSource says where the metrics of the GPUs come from.
type DCGMSource string

// Sources of GPU metrics.
const (
	DCGMNone     DCGMSource = "none"     // no metrics, or an operator's Prometheus has them already
	DCGMExisting DCGMSource = "existing" // the exporters of the GPU operator
	DCGMDeploy   DCGMSource = "deploy"   // the stack's own exporters, for a cluster without the GPU operator
)

// dcgmSuffix ends the name of the namespace of the stack's own exporters. To find out which pod has which GPU, they
// read a socket of the kubelet, which Pod Security forbids in the main namespace.
const dcgmSuffix = "-dcgm"

// dcgmExporter runs an exporter on each NVIDIA node and returns the host name that resolves to all of them.
func (a *ObservabilityArgs) dcgmExporter(
	ctx *pulumi.Context, name string, opts ...pulumi.ResourceOption,
) (pulumi.StringInput, error) {
	instance := name + dcgmSuffix
	space, err := corev1.NewNamespace(ctx, instance, &corev1.NamespaceArgs{Metadata: &metav1.ObjectMetaArgs{
		Name:   pulumi.Sprintf("%s%s", a.Namespace, dcgmSuffix),
		Labels: pulumi.StringMap{"pod-security.kubernetes.io/enforce": pulumi.String("privileged")},
	}}, opts...)
	if err != nil {
		return nil, err
	}
	namespace := space.Metadata.Name().Elem()
	if _, err := appsv1.NewDaemonSet(ctx, instance, &appsv1.DaemonSetArgs{
		Metadata: named(namespace, roleDCGM, instance, instance),
		Spec: &appsv1.DaemonSetSpecArgs{
			Selector: &metav1.LabelSelectorArgs{MatchLabels: selectInstance(roleDCGM, instance)},
			Template: &corev1.PodTemplateSpecArgs{
				Metadata: &metav1.ObjectMetaArgs{Labels: labels(roleDCGM, instance)}, Spec: a.dcgmPod(),
			},
		},
	}, opts...); err != nil {
		return nil, err
	}
	service, err := corev1.NewService(ctx, instance, &corev1.ServiceArgs{
		Metadata: annotated(named(namespace, roleDCGM, instance, instance), skipAwait()),
		Spec: &corev1.ServiceSpecArgs{
			ClusterIP: pulumi.String("None"), Selector: selectInstance(roleDCGM, instance),
			Ports: corev1.ServicePortArray{tcpPort(portNameMetrics, portDCGM)},
		},
	}, opts...)
	if err != nil {
		return nil, err
	}
	if err := networkPolicy(ctx, instance, namespace, roleDCGM, allow{
		ingress: networkingv1.NetworkPolicyIngressRuleArray{&networkingv1.NetworkPolicyIngressRuleArgs{
			From: anyNamespace(), Ports: networkingv1.NetworkPolicyPortArray{tcp(portDCGM)},
		}},
	}, opts...); err != nil {
		return nil, err
	}
	return pulumi.Sprintf("%s.%s.svc", service.Metadata.Name().Elem(), namespace), nil
}

// podResources is the folder of the kubelet's socket.
const podResources = "/var/lib/kubelet/pod-resources"

// dcgmPod returns the exporter's pod, which runs on nodes with NVIDIA GPUs.
func (a *ObservabilityArgs) dcgmPod() *corev1.PodSpecArgs {
	present := func(label string) *corev1.NodeSelectorTermArgs {
		return &corev1.NodeSelectorTermArgs{MatchExpressions: corev1.NodeSelectorRequirementArray{
			&corev1.NodeSelectorRequirementArgs{Key: pulumi.String(label), Operator: pulumi.String("Exists")},
		}}
	}
	return &corev1.PodSpecArgs{
		AutomountServiceAccountToken: pulumi.Bool(false),
		RuntimeClassName:             optional(a.DCGMRuntimeClass),
		Affinity: &corev1.AffinityArgs{NodeAffinity: &corev1.NodeAffinityArgs{
			// Labels of NVIDIA's feature discovery and of GKE.
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelectorArgs{
				NodeSelectorTerms: corev1.NodeSelectorTermArray{
					present("nvidia.com/gpu.present"), present("cloud.google.com/gke-accelerator"),
				},
			},
		}},
		Tolerations: corev1.TolerationArray{&corev1.TolerationArgs{
			Key: pulumi.String("nvidia.com/gpu"), Operator: pulumi.String("Exists"),
		}},
		Containers: corev1.ContainerArray{a.dcgmContainer()},
		Volumes: corev1.VolumeArray{&corev1.VolumeArgs{
			Name:     pulumi.String("pod-resources"),
			HostPath: &corev1.HostPathVolumeSourceArgs{Path: pulumi.String(podResources)},
		}},
	}
}

func (a *ObservabilityArgs) dcgmContainer() *corev1.ContainerArgs {
	return &corev1.ContainerArgs{
		Name:  pulumi.String("dcgm-exporter"),
		Image: pulumi.String(a.DCGMImage),
		Env: env(
			"DCGM_EXPORTER_LISTEN", ":"+strconv.Itoa(portDCGM),
			"DCGM_EXPORTER_KUBERNETES", "true", // adds the pod that uses the GPU
			"NVIDIA_VISIBLE_DEVICES", "all", // to monitor, without taking any from the pods
		),
		Ports:          corev1.ContainerPortArray{containerPort(portNameMetrics, portDCGM)},
		ReadinessProbe: httpProbe(portNameMetrics, "/health", 15, 4),
		LivenessProbe:  httpProbe(portNameMetrics, "/health", 30, 10), // it needs a minute to find the GPUs
		Resources:      requests("50m", "512Mi"),
		SecurityContext: &corev1.SecurityContextArgs{
			RunAsUser: pulumi.Int(0), // only root may read the kubelet's socket
			Capabilities: &corev1.CapabilitiesArgs{
				Drop: pulumi.ToStringArray([]string{"ALL"}),
				Add:  pulumi.ToStringArray([]string{"SYS_ADMIN"}), // for NVIDIA's profiling counters
			},
		},
		VolumeMounts: corev1.VolumeMountArray{mount("pod-resources", podResources, true)},
	}
}
