package components

import (
	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	policyv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/policy/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// env returns environment variables in the given order. pairs alternates names and values.
func env(pairs ...string) corev1.EnvVarArray {
	vars := corev1.EnvVarArray{}
	for i := 0; i+1 < len(pairs); i += 2 {
		vars = append(vars, &corev1.EnvVarArgs{Name: pulumi.String(pairs[i]), Value: pulumi.String(pairs[i+1])})
	}
	return vars
}

// httpProbe requests a path on a named port once per period. It fails after the given number of failures in a row.
func httpProbe(port, path string, periodSeconds, failures int) *corev1.ProbeArgs {
	return &corev1.ProbeArgs{
		HttpGet:          &corev1.HTTPGetActionArgs{Path: pulumi.String(path), Port: pulumi.String(port)},
		PeriodSeconds:    pulumi.Int(periodSeconds),
		TimeoutSeconds:   pulumi.Int(5),
		FailureThreshold: pulumi.Int(failures),
	}
}

// scratch returns an empty volume that lives as long as the pod, for programs that must write somewhere.
func scratch(name string) *corev1.VolumeArgs {
	return &corev1.VolumeArgs{Name: pulumi.String(name), EmptyDir: &corev1.EmptyDirVolumeSourceArgs{}}
}

func configVolume(name string, configMap pulumi.StringPtrInput, mode int) *corev1.VolumeArgs {
	return &corev1.VolumeArgs{Name: pulumi.String(name), ConfigMap: &corev1.ConfigMapVolumeSourceArgs{
		Name: configMap, DefaultMode: pulumi.Int(mode),
	}}
}

func secretVolume(name string, secret pulumi.StringPtrInput) *corev1.VolumeArgs {
	return &corev1.VolumeArgs{
		Name: pulumi.String(name), Secret: &corev1.SecretVolumeSourceArgs{SecretName: secret, DefaultMode: pulumi.Int(0o440)},
	}
}

func claimVolume(name string, claim pulumi.StringInput, readOnly bool) *corev1.VolumeArgs {
	return &corev1.VolumeArgs{
		Name: pulumi.String(name), PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSourceArgs{
			ClaimName: claim, ReadOnly: pulumi.Bool(readOnly),
		},
	}
}

func mount(name, path string, readOnly bool) *corev1.VolumeMountArgs {
	return &corev1.VolumeMountArgs{
		Name: pulumi.String(name), MountPath: pulumi.String(path), ReadOnly: pulumi.Bool(readOnly),
	}
}

// tcpPort returns a Service port that targets the container port of the same name.
func tcpPort(name string, port int) *corev1.ServicePortArgs {
	return &corev1.ServicePortArgs{
		Name: pulumi.String(name), Port: pulumi.Int(port), TargetPort: pulumi.String(name), Protocol: pulumi.String("TCP"),
	}
}

func containerPort(name string, port int) *corev1.ContainerPortArgs {
	return &corev1.ContainerPortArgs{
		Name: pulumi.String(name), ContainerPort: pulumi.Int(port), Protocol: pulumi.String("TCP"),
	}
}

// requests returns the resources of a container. CPU has a request but no limit, because a limit throttles bursts and
// protects nobody. Memory has both, so that a pod is never killed for memory that it was promised.
func requests(cpu, memory string) *corev1.ResourceRequirementsArgs {
	return &corev1.ResourceRequirementsArgs{
		Requests: pulumi.StringMap{"cpu": pulumi.String(cpu), "memory": pulumi.String(memory)},
		Limits:   pulumi.StringMap{"memory": pulumi.String(memory)},
	}
}

// annotated adds annotations to the metadata.
func annotated(metadata *metav1.ObjectMetaArgs, annotations pulumi.StringMap) *metav1.ObjectMetaArgs {
	if len(annotations) > 0 {
		metadata.Annotations = annotations
	}
	return metadata
}

// optional returns nil for an empty value, which leaves the field out.
func optional(value string) pulumi.StringPtrInput {
	if value == "" {
		return nil
	}
	return pulumi.String(value)
}

// disruptionBudget lets one pod at a time be drained. It uses maxUnavailable, because with one replica minAvailable 1
// would block every drain.
func disruptionBudget(
	ctx *pulumi.Context, name string, namespace pulumi.StringInput, r role, opts ...pulumi.ResourceOption,
) error {
	_, err := policyv1.NewPodDisruptionBudget(ctx, name, &policyv1.PodDisruptionBudgetArgs{
		Metadata: named(namespace, r, name, name),
		Spec: &policyv1.PodDisruptionBudgetSpecArgs{
			MaxUnavailable: pulumi.Int(1),
			// a crashing pod must not block the drain of its node
			UnhealthyPodEvictionPolicy: pulumi.String("AlwaysAllow"),
			Selector:                   &metav1.LabelSelectorArgs{MatchLabels: selectInstance(r, name)},
		},
	}, opts...)
	return err
}
