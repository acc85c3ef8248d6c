package components

import (
	metav1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/meta/v1"
	networkingv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/networking/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// allow lists the connections that a pod may accept and open. All others are denied.
type allow struct {
	ingress networkingv1.NetworkPolicyIngressRuleArray
	egress  networkingv1.NetworkPolicyEgressRuleArray
}

// networkPolicy denies the pods of one component instance all connections except those in a.
func networkPolicy(
	ctx *pulumi.Context, name string, namespace pulumi.StringInput, r role, a allow, opts ...pulumi.ResourceOption,
) error {
	if a.ingress == nil {
		a.ingress = networkingv1.NetworkPolicyIngressRuleArray{}
	}
	if a.egress == nil {
		a.egress = networkingv1.NetworkPolicyEgressRuleArray{}
	}
	_, err := networkingv1.NewNetworkPolicy(ctx, name, &networkingv1.NetworkPolicyArgs{
		Metadata: named(namespace, r, name, name),
		Spec: &networkingv1.NetworkPolicySpecArgs{
			PodSelector: &metav1.LabelSelectorArgs{MatchLabels: selectInstance(r, name)},
			PolicyTypes: pulumi.StringArray{pulumi.String("Ingress"), pulumi.String("Egress")},
			Ingress:     a.ingress,
			Egress:      a.egress,
		},
	}, opts...)
	return err
}

func tcp(port int) *networkingv1.NetworkPolicyPortArgs {
	return &networkingv1.NetworkPolicyPortArgs{Port: pulumi.Int(port), Protocol: pulumi.String("TCP")}
}

// podsOf selects the pods of some roles in the same namespace.
func podsOf(roles ...role) (peers networkingv1.NetworkPolicyPeerArray) {
	for _, r := range roles {
		peers = append(peers, &networkingv1.NetworkPolicyPeerArgs{
			PodSelector: &metav1.LabelSelectorArgs{MatchLabels: selectRole(r)},
		})
	}
	return peers
}

// anyNamespace selects all pods of the cluster, but nothing outside it.
func anyNamespace() networkingv1.NetworkPolicyPeerArray {
	return networkingv1.NetworkPolicyPeerArray{&networkingv1.NetworkPolicyPeerArgs{
		NamespaceSelector: &metav1.LabelSelectorArgs{},
	}}
}

// dns lets a pod resolve names. It does not select the cluster's resolver by label, because its namespace and labels
// differ between distributions, and NodeLocal DNS answers from a host address.
func dns() *networkingv1.NetworkPolicyEgressRuleArgs {
	return &networkingv1.NetworkPolicyEgressRuleArgs{Ports: networkingv1.NetworkPolicyPortArray{
		&networkingv1.NetworkPolicyPortArgs{Port: pulumi.Int(53), Protocol: pulumi.String("UDP")}, tcp(53),
	}}
}

// anywhere allows all destinations, because registries can be anywhere.
func anywhere() networkingv1.NetworkPolicyEgressRuleArray {
	return networkingv1.NetworkPolicyEgressRuleArray{&networkingv1.NetworkPolicyEgressRuleArgs{}}
}
