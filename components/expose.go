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

// Expose makes the front reachable from outside the cluster, in one way. The zero value leaves it inside.
type Expose struct {
	LoadBalancer *LoadBalancer
	Ingress      *Ingress
	Gateway      *Gateway
}

// LoadBalancer asks the cloud for an address. Without AuthFrontArgs.TLSSecret the front speaks plain HTTP there: use it on a private network.
type LoadBalancer struct {
	// Host is the name that leads to the address, for the endpoint's URL. Default: the address.
	Host string
	// SourceRanges that may connect, in CIDR notation. Default: all.
	SourceRanges []string
}

// Ingress routes a host name through the cluster's ingress controller.
type Ingress struct {
	Host string
	// ClassName of the controller. Default: the cluster's default class.
	ClassName string
	// TLSSecret holds the host's certificate. Default: plain HTTP.
	TLSSecret string
	// ClusterIssuer of cert-manager that fills TLSSecret. Default: the Secret is there already.
	ClusterIssuer string
}

// Gateway routes a host name through a Gateway of the Gateway API, which ends TLS.
type Gateway struct {
	Host string
	// Name of the Gateway.
	Name string
	// Namespace of the Gateway. Default: the front's own.
	Namespace string
	// Listener of the Gateway, by its section name. Default: every one that takes the host.
	Listener string
}

// expose makes the Service that users reach, what stands before it, and the endpoint's URL.
func (a *AuthFrontArgs) expose(ctx *pulumi.Context, name string, front *AuthFront, opts ...pulumi.ResourceOption) error {
	spec := &corev1.ServiceSpecArgs{
		Type:     pulumi.String("ClusterIP"),
		Selector: selectInstance(roleFront, name),
		Ports: corev1.ServicePortArray{&corev1.ServicePortArgs{
			Name: pulumi.String(portNameHTTP), Port: pulumi.Int(a.servicePort()), TargetPort: pulumi.String(portNameHTTP), Protocol: pulumi.String("TCP"),
		}},
	}
	if lb := a.Expose.LoadBalancer; lb != nil {
		spec.Type = pulumi.String("LoadBalancer")
		if len(lb.SourceRanges) > 0 {
			spec.LoadBalancerSourceRanges = pulumi.ToStringArray(lb.SourceRanges)
		}
	}
	service, err := corev1.NewService(ctx, name, &corev1.ServiceArgs{Metadata: named(a.Namespace, roleFront, name, name), Spec: spec}, opts...)
	if err != nil {
		return err
	}
	switch {
	case a.Expose.Gateway != nil:
		front.Endpoint = pulumi.String("https://" + a.Expose.Gateway.Host).ToStringOutput()
		return a.httpRoute(ctx, name, service, opts...)
	case a.Expose.Ingress != nil:
		front.Endpoint = pulumi.String(a.Expose.Ingress.url()).ToStringOutput()
		return a.ingress(ctx, name, service, opts...)
	case a.Expose.LoadBalancer != nil && a.Expose.LoadBalancer.Host != "":
		front.Endpoint = pulumi.String(a.scheme() + a.Expose.LoadBalancer.Host).ToStringOutput()
	case a.Expose.LoadBalancer != nil:
		front.Endpoint = service.Status.LoadBalancer().Ingress().Index(pulumi.Int(0)).ApplyT(func(address corev1.LoadBalancerIngress) string {
			if address.Hostname != nil {
				return a.scheme() + *address.Hostname
			}
			if address.Ip != nil {
				return a.scheme() + *address.Ip
			}
			return ""
		}).(pulumi.StringOutput)
	default:
		front.Endpoint = pulumi.Sprintf("%s%s.%s.svc.%s", a.scheme(), service.Metadata.Name().Elem(), service.Metadata.Namespace().Elem(), a.ClusterDomain)
	}
	return nil
}

// https tells whether users reach the front by HTTPS, whoever ends it.
func (a *AuthFrontArgs) https() bool {
	return a.TLSSecret != "" || a.Expose.Gateway != nil || a.Expose.Ingress != nil && a.Expose.Ingress.TLSSecret != ""
}

// scheme and servicePort are those of the front itself.
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

func (i *Ingress) url() string {
	if i.TLSSecret != "" {
		return "https://" + i.Host
	}
	return "http://" + i.Host
}

func (a *AuthFrontArgs) ingress(ctx *pulumi.Context, name string, service *corev1.Service, opts ...pulumi.ResourceOption) error {
	in := a.Expose.Ingress
	metadata := named(a.Namespace, roleFront, name, name)
	// ingress-nginx would cut a generation after 60 s, refuse an image over 1 MB, and hold a stream back; other controllers ignore these.
	metadata.Annotations = pulumi.StringMap{
		"nginx.ingress.kubernetes.io/proxy-read-timeout":        pulumi.String(strconv.Itoa(answerSeconds)),
		"nginx.ingress.kubernetes.io/proxy-send-timeout":        pulumi.String(strconv.Itoa(answerSeconds)),
		"nginx.ingress.kubernetes.io/proxy-body-size":           pulumi.String(fmt.Sprintf("%dm", a.BodyMiB)),
		"nginx.ingress.kubernetes.io/proxy-buffering":           pulumi.String("off"),
		"nginx.ingress.kubernetes.io/proxy-request-buffering":   pulumi.String("off"),
		"nginx.ingress.kubernetes.io/proxy-next-upstream-tries": pulumi.String("1"), // the front does the retries
	}
	if in.ClusterIssuer != "" {
		metadata.Annotations.(pulumi.StringMap)["cert-manager.io/cluster-issuer"] = pulumi.String(in.ClusterIssuer)
	}
	spec := &networkingv1.IngressSpecArgs{Rules: networkingv1.IngressRuleArray{&networkingv1.IngressRuleArgs{
		Host: pulumi.String(in.Host),
		Http: &networkingv1.HTTPIngressRuleValueArgs{Paths: networkingv1.HTTPIngressPathArray{&networkingv1.HTTPIngressPathArgs{
			Path: pulumi.String("/"), PathType: pulumi.String("Prefix"),
			Backend: &networkingv1.IngressBackendArgs{Service: &networkingv1.IngressServiceBackendArgs{
				Name: service.Metadata.Name().Elem(), Port: &networkingv1.ServiceBackendPortArgs{Name: pulumi.String(portNameHTTP)},
			}},
		}}},
	}}}
	if in.ClassName != "" {
		spec.IngressClassName = pulumi.String(in.ClassName)
	}
	if in.TLSSecret != "" {
		spec.Tls = networkingv1.IngressTLSArray{&networkingv1.IngressTLSArgs{
			Hosts: pulumi.ToStringArray([]string{in.Host}), SecretName: pulumi.String(in.TLSSecret),
		}}
	}
	_, err := networkingv1.NewIngress(ctx, name, &networkingv1.IngressArgs{Metadata: metadata, Spec: spec}, opts...)
	return err
}

func (a *AuthFrontArgs) httpRoute(ctx *pulumi.Context, name string, service *corev1.Service, opts ...pulumi.ResourceOption) error {
	gateway := a.Expose.Gateway
	parent := pulumi.Map{"name": pulumi.String(gateway.Name)}
	if gateway.Namespace != "" {
		parent["namespace"] = pulumi.String(gateway.Namespace)
	}
	if gateway.Listener != "" {
		parent["sectionName"] = pulumi.String(gateway.Listener)
	}
	// They cap the whole answer, not its silence: the front itself ends it in time.
	limit := pulumi.String(seconds(a.MaxSeconds + 60))
	_, err := apiextensions.NewCustomResource(ctx, name, &apiextensions.CustomResourceArgs{
		ApiVersion: pulumi.String("gateway.networking.k8s.io/v1"), Kind: pulumi.String("HTTPRoute"),
		Metadata: named(a.Namespace, roleFront, name, name),
		OtherFields: kubernetes.UntypedArgs{"spec": pulumi.Map{
			"parentRefs": pulumi.Array{parent},
			"hostnames":  pulumi.ToStringArray([]string{gateway.Host}),
			"rules": pulumi.Array{pulumi.Map{
				"backendRefs": pulumi.Array{pulumi.Map{"name": service.Metadata.Name().Elem(), "port": pulumi.Int(portService)}},
				// A gateway's own limits are often 15 s or 60 s: a generation takes longer.
				"timeouts": pulumi.Map{"request": limit, "backendRequest": limit},
			}},
		}},
	}, opts...)
	return err
}
