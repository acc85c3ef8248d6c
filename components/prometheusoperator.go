package components

import (
	"fmt"
	"strings"

	"github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes"
	"github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/apiextensions"
	appsv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/apps/v1"
	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	networkingv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/networking/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"sigs.k8s.io/yaml"
)

// The objects for an existing Prometheus operator, and json_exporter as a Deployment. Such a Prometheus has the state
// of Jobs from kube-state-metrics.

func (a *ObservabilityArgs) operatorObjects(ctx *pulumi.Context, name string, opts ...pulumi.ResourceOption) error {
	if err := a.exporterDeployment(ctx, name, opts...); err != nil {
		return err
	}
	object := func(suffix, kind string, spec func(k known) (string, error)) error {
		release := pulumi.StringMap{}
		if a.ReleaseLabel != "" {
			release["release"] = pulumi.String(a.ReleaseLabel)
		}
		metadata := annotated(named(
			a.Namespace, rolePrometheus, name, name+suffix, release,
		), pulumi.ToStringMap(a.Annotations))
		resource := name + "-" + strings.ToLower(kind) + suffix
		_, err := apiextensions.NewCustomResource(ctx, resource, &apiextensions.CustomResourceArgs{
			ApiVersion: pulumi.String("monitoring.coreos.com/v1"), Kind: pulumi.String(kind), Metadata: metadata,
			OtherFields: kubernetes.UntypedArgs{"spec": a.whenKnown(pulumi.String(""), spec).ApplyT(parsed)},
		}, opts...)
		return err
	}
	if err := object("", "PodMonitor", func(known) (string, error) {
		return render("podmonitor-front.yml.tmpl", map[string]any{
			"Role": roleFront, "Port": portNameMetrics, "TeamsPath": teamsMetricsPath,
		})
	}); err != nil {
		return err
	}
	if err := object("-servers", "PodMonitor", func(k known) (string, error) {
		return a.podMonitorOfServers(k, name+"-exporter")
	}); err != nil {
		return err
	}
	if a.DCGM == DCGMDeploy {
		if err := object("-dcgm", "PodMonitor", func(k known) (string, error) {
			return render("podmonitor-dcgm.yml.tmpl", map[string]any{
				"Role": roleDCGM, "Port": portNameMetrics, "Namespace": k.Namespace + dcgmSuffix,
			})
		}); err != nil {
			return err
		}
	}
	if err := object("", "PrometheusRule", known.rules); err != nil {
		return err
	}
	return object("-stack", "PrometheusRule", a.configRules)
}

// podMonitorOfServers renders the PodMonitor that asks json_exporter about each server and sets the label pool.
func (a *ObservabilityArgs) podMonitorOfServers(k known, exporter string) (string, error) {
	return render("podmonitor-servers.yml.tmpl", map[string]any{
		"Role": roleServer, "Port": portNameHTTP, "ServerJobs": serverJobs, "ModelNames": metricRenamings(),
		"Pools": k.Pools, "Exporter": fmt.Sprintf("%s.%s.svc:%d", exporter, k.Namespace, portExporter),
	})
}

// parsed parses YAML.
func parsed(text string) (value map[string]any, err error) {
	return value, yaml.Unmarshal([]byte(text), &value)
}

// exporterDeployment creates the json_exporter for all pools. Anybody who reaches it can make it fetch an address, so
// it may connect only to the servers.
func (a *ObservabilityArgs) exporterDeployment(ctx *pulumi.Context, name string, opts ...pulumi.ResourceOption) error {
	instance := name + "-exporter"
	config, err := a.exporterConfigMap(ctx, name, opts...)
	if err != nil {
		return err
	}
	container := a.exporterContainer("")
	container.Ports = corev1.ContainerPortArray{containerPort(portNameHTTP, portExporter)}
	if _, err := appsv1.NewDeployment(ctx, instance, &appsv1.DeploymentArgs{
		Metadata: named(a.Namespace, roleExporter, instance, instance),
		Spec: &appsv1.DeploymentSpecArgs{
			Replicas: pulumi.Int(1),
			Selector: &metav1.LabelSelectorArgs{MatchLabels: selectInstance(roleExporter, instance)},
			Template: &corev1.PodTemplateSpecArgs{
				Metadata: &metav1.ObjectMetaArgs{Labels: labels(roleExporter, instance)},
				Spec: &corev1.PodSpecArgs{
					AutomountServiceAccountToken: pulumi.Bool(false),
					SecurityContext:              restrictedPod(uidPrometheus),
					Containers:                   corev1.ContainerArray{container},
					Volumes:                      corev1.VolumeArray{configVolume("exporter", config, 0o444)},
				},
			},
		},
	}, opts...); err != nil {
		return err
	}
	if _, err := corev1.NewService(ctx, instance, &corev1.ServiceArgs{
		Metadata: annotated(named(a.Namespace, roleExporter, instance, instance), skipAwait()),
		Spec: &corev1.ServiceSpecArgs{
			Selector: selectInstance(roleExporter, instance),
			Ports:    corev1.ServicePortArray{tcpPort(portNameHTTP, portExporter)},
		},
	}, opts...); err != nil {
		return err
	}
	return networkPolicy(ctx, instance, a.Namespace, roleExporter, allow{
		ingress: networkingv1.NetworkPolicyIngressRuleArray{&networkingv1.NetworkPolicyIngressRuleArgs{
			// the operator's Prometheus runs in another namespace
			From: anyNamespace(), Ports: networkingv1.NetworkPolicyPortArray{tcp(portExporter)},
		}},
		egress: networkingv1.NetworkPolicyEgressRuleArray{dns(), &networkingv1.NetworkPolicyEgressRuleArgs{
			To: podsOf(roleServer), Ports: networkingv1.NetworkPolicyPortArray{tcp(portOllama)},
		}},
	}, opts...)
}
