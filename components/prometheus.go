package components

import (
	"fmt"
	"strconv"

	appsv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/apps/v1"
	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	networkingv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/networking/v1"
	rbacv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/rbac/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// The bundled Prometheus, with json_exporter as a sidecar. The exporter listens only on the pod's loopback, because
// anybody who reaches it can make it fetch any address.

// serverJobs lists what Prometheus reads from each server through json_exporter.
var serverJobs = []struct{ Module, Path, Interval, Comment string }{
	{"memory", "/api/ps", "15s", "Models in the memory of each server"},
	{"store", "/api/tags", "30s", "Models in the store of each server"},
}

func (a *ObservabilityArgs) bundled(
	ctx *pulumi.Context, name string, dcgmHost pulumi.StringInput, observability *Observability,
	opts ...pulumi.ResourceOption,
) error {
	config, err := a.prometheusConfigMap(ctx, name, dcgmHost, opts...)
	if err != nil {
		return err
	}
	exporterConfig, err := a.exporterConfigMap(ctx, name, opts...)
	if err != nil {
		return err
	}
	account, err := a.account(ctx, name, opts...)
	if err != nil {
		return err
	}
	data, err := a.dataVolume(ctx, name, opts...)
	if err != nil {
		return err
	}
	volumes := corev1.VolumeArray{
		configVolume("config", config, 0o444), configVolume("exporter", exporterConfig, 0o444), data, accountVolume(),
	}
	if err := a.prometheusDeployment(ctx, name, account, volumes, opts...); err != nil {
		return err
	}
	service, err := corev1.NewService(ctx, name+"-prometheus", &corev1.ServiceArgs{
		Metadata: annotated(named(a.Namespace, rolePrometheus, name, name+"-prometheus"), skipAwait()),
		Spec: &corev1.ServiceSpecArgs{
			Selector: selectInstance(rolePrometheus, name),
			Ports:    corev1.ServicePortArray{tcpPort(portNameHTTP, portPrometheus)},
		},
	}, opts...)
	if err != nil {
		return err
	}
	observability.QueryURL = pulumi.Sprintf(
		"http://%s.%s.svc:%d", service.Metadata.Name().Elem(), service.Metadata.Namespace().Elem(), portPrometheus,
	)
	return networkPolicy(ctx, name, a.Namespace, rolePrometheus, a.prometheusTraffic(), opts...)
}

// prometheusConfigMap creates the ConfigMap with Prometheus' files.
func (a *ObservabilityArgs) prometheusConfigMap(
	ctx *pulumi.Context, name string, dcgmHost pulumi.StringInput, opts ...pulumi.ResourceOption,
) (pulumi.StringPtrOutput, error) {
	text := func(of func(known) (string, error)) pulumi.StringOutput { return a.whenKnown(dcgmHost, of) }
	// The name stays the same: when a model is added, Prometheus reloads its files and keeps its data.
	configMap, err := corev1.NewConfigMap(ctx, name+"-prometheus", &corev1.ConfigMapArgs{
		Metadata: named(a.Namespace, rolePrometheus, name, name+"-prometheus"),
		Data: pulumi.StringMap{
			"prometheus.yml": text(a.prometheusConfig), "rules.yml": text(known.rules), "stack.yml": text(a.configRules),
		},
	}, opts...)
	if err != nil {
		return pulumi.StringPtrOutput{}, err
	}
	return configMap.Metadata.Name(), nil
}

// dataVolume returns the volume for Prometheus' data: a claim, or the node's disk.
func (a *ObservabilityArgs) dataVolume(
	ctx *pulumi.Context, name string, opts ...pulumi.ResourceOption,
) (*corev1.VolumeArgs, error) {
	if a.Storage == "" {
		return scratch("data"), nil
	}
	claim, err := corev1.NewPersistentVolumeClaim(ctx, name+"-prometheus", &corev1.PersistentVolumeClaimArgs{
		// It may bind only when the pod exists.
		Metadata: annotated(named(a.Namespace, rolePrometheus, name, name+"-prometheus"), skipAwait()),
		Spec: &corev1.PersistentVolumeClaimSpecArgs{
			AccessModes:      pulumi.StringArray{pulumi.String(ReadWriteOnce)},
			StorageClassName: optional(a.StorageClass),
			Resources: &corev1.VolumeResourceRequirementsArgs{
				Requests: pulumi.StringMap{"storage": pulumi.String(a.Storage)},
			},
		},
	}, opts...)
	if err != nil {
		return nil, err
	}
	return claimVolume("data", claim.Metadata.Name().Elem(), false), nil
}

func (a *ObservabilityArgs) prometheusDeployment(
	ctx *pulumi.Context, name string, account pulumi.StringInput, volumes corev1.VolumeArray,
	opts ...pulumi.ResourceOption,
) error {
	_, err := appsv1.NewDeployment(ctx, name+"-prometheus", &appsv1.DeploymentArgs{
		Metadata: named(a.Namespace, rolePrometheus, name, name+"-prometheus"),
		Spec: &appsv1.DeploymentSpecArgs{
			Replicas: pulumi.Int(1),
			// A second pod could not mount the claim. Use Recreate without a claim too, because storage can be added later, and
			// server-side apply cannot change the strategy of a Deployment that has rolled before: the API server's own
			// rollingUpdate stays in it.
			Strategy: &appsv1.DeploymentStrategyArgs{Type: pulumi.String("Recreate")},
			Selector: &metav1.LabelSelectorArgs{MatchLabels: selectInstance(rolePrometheus, name)},
			Template: podTemplate(labels(rolePrometheus, name), &corev1.PodSpecArgs{
				ServiceAccountName:           account,
				AutomountServiceAccountToken: pulumi.Bool(false), // only the containers that mount it below get it
				SecurityContext:              restrictedPod(uidPrometheus),
				Containers: corev1.ContainerArray{
					a.prometheusContainer(), a.exporterContainer("127.0.0.1", accountMount()),
				},
				Volumes: volumes,
			}),
		},
	}, opts...)
	return err
}

// prometheusTraffic returns the connections that the bundled Prometheus accepts and opens.
func (a *ObservabilityArgs) prometheusTraffic() allow {
	to := func(peers networkingv1.NetworkPolicyPeerArray, ports ...int) *networkingv1.NetworkPolicyEgressRuleArgs {
		rule, open := &networkingv1.NetworkPolicyEgressRuleArgs{}, networkingv1.NetworkPolicyPortArray{}
		for _, port := range ports {
			open = append(open, tcp(port))
		}
		if rule.Ports = open; peers != nil {
			rule.To = peers
		}
		return rule
	}
	traffic := allow{
		ingress: networkingv1.NetworkPolicyIngressRuleArray{&networkingv1.NetworkPolicyIngressRuleArgs{
			// Grafana and KEDA run in other namespaces.
			From: anyNamespace(), Ports: networkingv1.NetworkPolicyPortArray{tcp(portPrometheus)},
		}},
		egress: networkingv1.NetworkPolicyEgressRuleArray{
			dns(), to(podsOf(roleFront), a.MetricsPort), to(podsOf(roleServer), portOllama),
			// The Kubernetes API has no pods that a policy could select. After the Service's address is translated, its port is
			// 443 or 6443.
			to(nil, 443, 6443),
		},
	}
	if a.DCGM != DCGMNone {
		traffic.egress = append(traffic.egress, to(anyNamespace(), portDCGM))
	}
	return traffic
}

// prometheusConfig renders prometheus.yml.
func (a *ObservabilityArgs) prometheusConfig(k known) (string, error) {
	values := map[string]any{
		"Namespace": k.Namespace, "Host": k.FrontHost, "Port": a.MetricsPort, "TeamsPath": teamsMetricsPath,
		"Pools": k.Pools, "ServerJobs": serverJobs, "ModelNames": metricRenamings(), "OllamaPort": portOllama,
		"ExporterPort": portExporter,
		"DCGMHost":     k.DCGMHost, "DCGMPort": portDCGM, "DCGMNamespace": "",
	}
	if a.DCGM == DCGMExisting {
		values["DCGMNamespace"] = a.DCGMNamespace
	}
	return render("prometheus.yml.tmpl", values)
}

// account creates a ServiceAccount that may list this namespace's Jobs and find the GPU operator's exporters.
func (a *ObservabilityArgs) account(
	ctx *pulumi.Context, name string, opts ...pulumi.ResourceOption,
) (pulumi.StringInput, error) {
	account, err := corev1.NewServiceAccount(ctx, name+"-prometheus", &corev1.ServiceAccountArgs{
		Metadata:                     named(a.Namespace, rolePrometheus, name, name+"-prometheus"),
		AutomountServiceAccountToken: pulumi.Bool(false),
	}, opts...)
	if err != nil {
		return nil, err
	}
	grant := func(resource string, namespace pulumi.StringInput, group, kind string, verbs ...string) error {
		role, err := rbacv1.NewRole(ctx, resource, &rbacv1.RoleArgs{
			Metadata: named(namespace, rolePrometheus, name, resource),
			Rules: rbacv1.PolicyRuleArray{&rbacv1.PolicyRuleArgs{
				ApiGroups: pulumi.ToStringArray([]string{group}), Resources: pulumi.ToStringArray([]string{kind}),
				Verbs: pulumi.ToStringArray(verbs),
			}},
		}, opts...)
		if err != nil {
			return err
		}
		_, err = rbacv1.NewRoleBinding(ctx, resource, &rbacv1.RoleBindingArgs{
			Metadata: named(namespace, rolePrometheus, name, resource),
			RoleRef: &rbacv1.RoleRefArgs{
				ApiGroup: pulumi.String("rbac.authorization.k8s.io"), Kind: pulumi.String("Role"),
				Name: role.Metadata.Name().Elem(),
			},
			Subjects: rbacv1.SubjectArray{&rbacv1.SubjectArgs{
				Kind: pulumi.String("ServiceAccount"), Name: account.Metadata.Name().Elem(),
				Namespace: account.Metadata.Namespace(),
			}},
		}, opts...)
		return err
	}
	if err := grant(name+"-prometheus", a.Namespace, "batch", "jobs", "list"); err != nil {
		return nil, err
	}
	if a.DCGM == DCGMExisting {
		if err := grant(
			name+"-prometheus-dcgm", pulumi.String(a.DCGMNamespace), "", "pods", "get", "list", "watch",
		); err != nil {
			return nil, err
		}
	}
	return account.Metadata.Name().Elem(), nil
}

const accountPath = "/var/run/secrets/kubernetes.io/serviceaccount"

func accountMount() *corev1.VolumeMountArgs { return mount("account", accountPath, true) }

// accountVolume returns the volume that Kubernetes would otherwise mount into every container of the pod.
func accountVolume() *corev1.VolumeArgs {
	return &corev1.VolumeArgs{Name: pulumi.String("account"), Projected: &corev1.ProjectedVolumeSourceArgs{
		Sources: corev1.VolumeProjectionArray{
			&corev1.VolumeProjectionArgs{ServiceAccountToken: &corev1.ServiceAccountTokenProjectionArgs{
				Path: pulumi.String("token"),
			}},
			&corev1.VolumeProjectionArgs{ConfigMap: &corev1.ConfigMapProjectionArgs{
				Name: pulumi.String("kube-root-ca.crt"), Items: corev1.KeyToPathArray{
					&corev1.KeyToPathArgs{Key: pulumi.String("ca.crt"), Path: pulumi.String("ca.crt")},
				},
			}},
		},
	}}
}

func (a *ObservabilityArgs) prometheusContainer() *corev1.ContainerArgs {
	size := "1GB" // on the node's disk
	if a.Storage != "" {
		size = "0" // no limit: the size that the claim leaves is unknown here, and the retention time bounds it
	}
	mounts := corev1.VolumeMountArray{mount("config", "/etc/prometheus", true), mount("data", "/prometheus", false)}
	if a.DCGM == DCGMExisting {
		mounts = append(mounts, accountMount()) // it discovers the exporters itself
	}
	return &corev1.ContainerArgs{
		Name:  pulumi.String("prometheus"),
		Image: pulumi.String(a.Image),
		Command: pulumi.ToStringArray([]string{
			"prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus",
			"--storage.tsdb.retention.time=" + strconv.Itoa(a.RetentionDays) + "d", "--storage.tsdb.retention.size=" + size,
			"--web.listen-address=:" + strconv.Itoa(portPrometheus), "--enable-feature=auto-reload-config",
		}),
		Ports:           corev1.ContainerPortArray{containerPort(portNameHTTP, portPrometheus)},
		ReadinessProbe:  httpProbe(portNameHTTP, "/-/ready", 5, 3),
		LivenessProbe:   httpProbe(portNameHTTP, "/-/healthy", 15, 4),
		Resources:       requests("100m", "512Mi"),
		SecurityContext: restrictedContainer(),
		VolumeMounts:    mounts,
	}
}

// exporterConfigMap creates the ConfigMap of json_exporter, which reads it only at start.
func (a *ObservabilityArgs) exporterConfigMap(
	ctx *pulumi.Context, name string, opts ...pulumi.ResourceOption,
) (pulumi.StringPtrInput, error) {
	config, err := corev1.NewConfigMap(ctx, name+"-exporter", &corev1.ConfigMapArgs{
		Metadata:  autonamed(a.Namespace, roleExporter, name),
		Data:      pulumi.StringMap{"json-exporter.yml": pulumi.String(file("json-exporter.yml"))},
		Immutable: pulumi.Bool(true),
	}, opts...)
	if err != nil {
		return nil, err
	}
	return config.Metadata.Name(), nil
}

// exporterContainer returns json_exporter, which turns JSON into metrics. It listens on address.
func (a *ObservabilityArgs) exporterContainer(address string, mounts ...corev1.VolumeMountInput) *corev1.ContainerArgs {
	// The kubelet cannot reach a loopback address, so the probe runs inside the container in both modes.
	alive := func(periodSeconds, failures int) *corev1.ProbeArgs {
		return &corev1.ProbeArgs{
			Exec: &corev1.ExecActionArgs{Command: pulumi.ToStringArray([]string{
				"wget", "-q", "-O", "/dev/null", fmt.Sprintf("http://127.0.0.1:%d/metrics", portExporter),
			})},
			PeriodSeconds: pulumi.Int(periodSeconds), TimeoutSeconds: pulumi.Int(5), FailureThreshold: pulumi.Int(failures),
		}
	}
	return &corev1.ContainerArgs{
		Name:  pulumi.String("json-exporter"),
		Image: pulumi.String(a.ExporterImage),
		Args: pulumi.ToStringArray([]string{
			"--config.file=/etc/json-exporter/json-exporter.yml",
			"--web.listen-address=" + address + ":" + strconv.Itoa(portExporter), "--log.level=warn",
		}),
		ReadinessProbe:  alive(10, 3),
		LivenessProbe:   alive(30, 4),
		Resources:       requests("10m", "64Mi"),
		SecurityContext: restrictedContainer(),
		VolumeMounts:    append(corev1.VolumeMountArray{mount("exporter", "/etc/json-exporter", true)}, mounts...),
	}
}
