package components

import (
	"fmt"
	"strconv"

	"github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes"
	"github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/apiextensions"
	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	networkingv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/networking/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// Expose is one way to make the front reachable from outside the cluster: a LoadBalancer, an Ingress or a Gateway.
type Expose interface {
	// https reports whether clients use HTTPS even if the front itself serves plain HTTP.
	https() bool
	// shape changes the front's Service before it is created.
	shape(service *corev1.ServiceSpecArgs)
	// publish creates the objects in front of the front's Service, and returns the URL for clients.
	publish(
		ctx *pulumi.Context, name string, front *AuthFrontArgs, service *corev1.Service, opts ...pulumi.ResourceOption,
	) (pulumi.StringOutput, error)
}

// LoadBalancer requests an address from the cloud. Without AuthFrontArgs.TLSSecret the front serves plain HTTP there,
// so use it only on a private network.
type LoadBalancer struct {
	// Host is the DNS name of the address, for the endpoint's URL. Default: the address.
	Host string
	// SourceRanges that may connect, in CIDR notation. Default: all.
	SourceRanges []string
}

// Ingress routes a host name through the cluster's ingress controller.
type Ingress struct {
	Host string
	// ClassName is the controller's IngressClass. Default: the cluster's default class.
	ClassName string
	// TLSSecret holds the host's certificate. Default: plain HTTP.
	TLSSecret string
	// ClusterIssuer is the cert-manager issuer that fills TLSSecret. Default: the Secret already exists.
	ClusterIssuer string
}

// Gateway routes a host name through a Gateway of the Gateway API, which terminates TLS.
type Gateway struct {
	Host string
	// Name of the Gateway.
	Name string
	// Namespace of the Gateway. Default: the front's own.
	Namespace string
	// Listener is the section name of a listener of the Gateway. Default: every listener that accepts the host.
	Listener string
}

// inside keeps the front inside the cluster.
type inside struct{}

// exposure returns a.Expose, or inside if it is nil.
func (a *AuthFrontArgs) exposure() Expose {
	if a.Expose == nil {
		return inside{}
	}
	return a.Expose
}

// expose creates the front's Service and the objects in front of it, and returns the endpoint's URL.
func (a *AuthFrontArgs) expose(
	ctx *pulumi.Context, name string, front *AuthFront, opts ...pulumi.ResourceOption,
) error {
	spec := &corev1.ServiceSpecArgs{
		Type:     pulumi.String("ClusterIP"),
		Selector: selectInstance(roleFront, name),
		Ports: corev1.ServicePortArray{&corev1.ServicePortArgs{
			Name: pulumi.String(portNameHTTP), Port: pulumi.Int(a.servicePort()), TargetPort: pulumi.String(portNameHTTP),
			Protocol: pulumi.String("TCP"),
		}},
	}
	a.exposure().shape(spec)
	service, err := corev1.NewService(ctx, name, &corev1.ServiceArgs{
		Metadata: named(a.Namespace, roleFront, name, name), Spec: spec,
	}, opts...)
	if err != nil {
		return err
	}
	front.ServiceName = service.Metadata.Name().Elem()
	front.Endpoint, err = a.exposure().publish(ctx, name, a, service, opts...)
	return err
}

// https reports whether clients use HTTPS, whichever component terminates it.
func (a *AuthFrontArgs) https() bool { return a.TLSSecret != "" || a.exposure().https() }

// scheme and servicePort are those of the front's own Service.
func (a *AuthFrontArgs) scheme() string {
	if a.TLSSecret != "" {
		return "https://"
	}
	return "http://"
}

func (a *AuthFrontArgs) servicePort() int {
	if a.TLSSecret != "" {
		return portServiceTLS
	}
	return portService
}

func (inside) https() bool                   { return false }
func (inside) shape(*corev1.ServiceSpecArgs) {}

func (inside) publish(
	_ *pulumi.Context, _ string, front *AuthFrontArgs, service *corev1.Service, _ ...pulumi.ResourceOption,
) (pulumi.StringOutput, error) {
	name, namespace := service.Metadata.Name().Elem(), service.Metadata.Namespace().Elem()
	return pulumi.Sprintf("%s%s.%s.svc.%s", front.scheme(), name, namespace, front.ClusterDomain), nil
}

func (LoadBalancer) https() bool { return false }

func (l LoadBalancer) shape(service *corev1.ServiceSpecArgs) {
	service.Type = pulumi.String("LoadBalancer")
	if len(l.SourceRanges) > 0 {
		service.LoadBalancerSourceRanges = pulumi.ToStringArray(l.SourceRanges)
	}
}

func (l LoadBalancer) publish(
	_ *pulumi.Context, _ string, front *AuthFrontArgs, service *corev1.Service, _ ...pulumi.ResourceOption,
) (pulumi.StringOutput, error) {
	if l.Host != "" {
		return pulumi.String(front.scheme() + l.Host).ToStringOutput(), nil
	}
	first := service.Status.LoadBalancer().Ingress().Index(pulumi.Int(0))
	return first.ApplyT(func(address corev1.LoadBalancerIngress) string {
		if address.Hostname != nil {
			return front.scheme() + *address.Hostname
		}
		if address.Ip != nil {
			return front.scheme() + *address.Ip
		}
		return ""
	}).(pulumi.StringOutput), nil
}

func (i Ingress) https() bool                 { return i.TLSSecret != "" }
func (Ingress) shape(*corev1.ServiceSpecArgs) {}

func (i Ingress) publish(
	ctx *pulumi.Context, name string, front *AuthFrontArgs, service *corev1.Service, opts ...pulumi.ResourceOption,
) (pulumi.StringOutput, error) {
	metadata := named(front.Namespace, roleFront, name, name)
	metadata.Annotations = i.annotations(front.BodyMiB)
	spec := &networkingv1.IngressSpecArgs{
		IngressClassName: optional(i.ClassName),
		Rules: networkingv1.IngressRuleArray{&networkingv1.IngressRuleArgs{
			Host: pulumi.String(i.Host),
			Http: &networkingv1.HTTPIngressRuleValueArgs{Paths: networkingv1.HTTPIngressPathArray{
				&networkingv1.HTTPIngressPathArgs{
					Path: pulumi.String("/"), PathType: pulumi.String("Prefix"),
					Backend: &networkingv1.IngressBackendArgs{Service: &networkingv1.IngressServiceBackendArgs{
						Name: service.Metadata.Name().Elem(),
						Port: &networkingv1.ServiceBackendPortArgs{Name: pulumi.String(portNameHTTP)},
					}},
				},
			}},
		}},
	}
	url := "http://" + i.Host
	if i.TLSSecret != "" {
		url = "https://" + i.Host
		spec.Tls = networkingv1.IngressTLSArray{&networkingv1.IngressTLSArgs{
			Hosts: pulumi.ToStringArray([]string{i.Host}), SecretName: pulumi.String(i.TLSSecret),
		}}
	}
	_, err := networkingv1.NewIngress(ctx, name, &networkingv1.IngressArgs{Metadata: metadata, Spec: spec}, opts...)
	return pulumi.String(url).ToStringOutput(), err
}

// annotations keep ingress-nginx from cutting a generation after 60 s, rejecting an image over 1 MB, and buffering a
// stream. Other controllers ignore them.
func (i Ingress) annotations(bodyMiB int) pulumi.StringMap {
	annotations := pulumi.StringMap{
		"nginx.ingress.kubernetes.io/proxy-read-timeout":        pulumi.String(strconv.Itoa(answerSeconds)),
		"nginx.ingress.kubernetes.io/proxy-send-timeout":        pulumi.String(strconv.Itoa(answerSeconds)),
		"nginx.ingress.kubernetes.io/proxy-body-size":           pulumi.String(fmt.Sprintf("%dm", bodyMiB)),
		"nginx.ingress.kubernetes.io/proxy-buffering":           pulumi.String("off"),
		"nginx.ingress.kubernetes.io/proxy-request-buffering":   pulumi.String("off"),
		"nginx.ingress.kubernetes.io/proxy-next-upstream-tries": pulumi.String("1"), // the front does the retries
	}
	if i.ClusterIssuer != "" {
		annotations["cert-manager.io/cluster-issuer"] = pulumi.String(i.ClusterIssuer)
	}
	return annotations
}

func (Gateway) https() bool                   { return true }
func (Gateway) shape(*corev1.ServiceSpecArgs) {}

func (g Gateway) publish(
	ctx *pulumi.Context, name string, front *AuthFrontArgs, service *corev1.Service, opts ...pulumi.ResourceOption,
) (pulumi.StringOutput, error) {
	parent := pulumi.Map{"name": pulumi.String(g.Name)}
	if g.Namespace != "" {
		parent["namespace"] = pulumi.String(g.Namespace)
	}
	if g.Listener != "" {
		parent["sectionName"] = pulumi.String(g.Listener)
	}
	// These timeouts limit the whole answer, not only silence. The front itself ends it earlier.
	limit := pulumi.String(seconds(front.MaxSeconds + 60))
	_, err := apiextensions.NewCustomResource(ctx, name, &apiextensions.CustomResourceArgs{
		ApiVersion: pulumi.String("gateway.networking.k8s.io/v1"), Kind: pulumi.String("HTTPRoute"),
		Metadata: named(front.Namespace, roleFront, name, name),
		OtherFields: kubernetes.UntypedArgs{"spec": pulumi.Map{
			"parentRefs": pulumi.Array{parent},
			"hostnames":  pulumi.ToStringArray([]string{g.Host}),
			"rules": pulumi.Array{pulumi.Map{
				"backendRefs": pulumi.Array{pulumi.Map{"name": service.Metadata.Name().Elem(), "port": pulumi.Int(portService)}},
				// A gateway's default timeouts are often 15 s or 60 s. A generation takes longer.
				"timeouts": pulumi.Map{"request": limit, "backendRequest": limit},
			}},
		}},
	}, opts...)
	return pulumi.String("https://" + g.Host).ToStringOutput(), err
}
