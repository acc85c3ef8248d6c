package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
)

// conditionAddress is the condition of a Service that asks for a port of another Service or of the cluster.
const conditionAddress = "LoadBalancerAddress"

// loadBalancer gives its only address to every Service of type LoadBalancer. kube-proxy balances the load once the
// address is in the Service's status. All Services share the address, so no two may have the same port.
type loadBalancer struct {
	*loop
	client   kubernetes.Interface
	services corelisters.ServiceLister
	events   record.EventRecorder
	address  string
}

func newLoadBalancer(
	client kubernetes.Interface, services coreinformers.ServiceInformer, events record.EventRecorder, address string,
) (*loadBalancer, error) {
	b := &loadBalancer{client: client, services: services.Lister(), events: events, address: address}
	var err error
	b.loop, err = newLoop("load balancer", services.Informer(), b.reconcile)
	return b, err
}

func (b *loadBalancer) reconcile(ctx context.Context) error {
	services, err := b.services.List(labels.Everything())
	if err != nil {
		return err
	}
	var failed []error
	for _, decision := range decide(services, b.address) {
		if err := b.apply(ctx, decision); err != nil {
			failed = append(failed, fmt.Errorf("service %s/%s: %w", decision.service.Namespace, decision.service.Name, err))
		}
	}
	return errors.Join(failed...)
}

// apply writes the decision into the Service's status if it differs.
func (b *loadBalancer) apply(ctx context.Context, d decision) error {
	wanted := d.service.DeepCopy()
	wanted.Status.LoadBalancer.Ingress = nil
	meta.RemoveStatusCondition(&wanted.Status.Conditions, conditionAddress)
	switch {
	case d.granted:
		ingress := corev1.LoadBalancerIngress{IP: b.address, IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)}
		wanted.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{ingress}
	case d.refusal != "":
		wanted.Status.Conditions = slices.Clone(d.service.Status.Conditions)
		meta.SetStatusCondition(&wanted.Status.Conditions, metav1.Condition{
			Type: conditionAddress, Status: metav1.ConditionFalse, Reason: "PortTaken",
			Message: d.refusal, ObservedGeneration: d.service.Generation,
		})
	}
	if equality.Semantic.DeepEqual(wanted.Status, d.service.Status) {
		return nil
	}
	_, err := b.client.CoreV1().Services(wanted.Namespace).UpdateStatus(ctx, wanted, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if d.refusal != "" {
		b.events.Event(d.service, corev1.EventTypeWarning, "PortTaken", d.refusal)
	} else if d.granted {
		b.events.Eventf(d.service, corev1.EventTypeNormal, "AddressAssigned", "reachable from this machine at %s", b.address)
	}
	return nil
}

// decision is what a Service gets: the address, a refusal with its reason, or neither if it is no longer a load
// balancer.
type decision struct {
	service *corev1.Service
	granted bool
	refusal string
}

// claim is what must be unique on the shared address.
type claim struct {
	protocol corev1.Protocol
	port     int32
}

// reserved are the ports of the address on which the cluster itself listens. A Service with such a port would cut off
// the API server, for example.
var reserved = map[claim]string{
	{corev1.ProtocolTCP, 6443}:  "the API server",
	{corev1.ProtocolTCP, 10248}: "the kubelet's health endpoint",
	{corev1.ProtocolTCP, 10250}: "the kubelet",
	{corev1.ProtocolTCP, 10256}: "kube-proxy's health endpoint",
	{corev1.ProtocolTCP, 10257}: "the controller manager",
	{corev1.ProtocolTCP, 10259}: "the scheduler",
	{corev1.ProtocolTCP, 10260}: "the agent's health endpoint",
}

// decide distributes the ports: a Service that has the address keeps it, and among the others the oldest comes first. A
// Service gets all its ports or none.
func decide(services []*corev1.Service, address string) []decision {
	has := func(s *corev1.Service) bool {
		ours := func(i corev1.LoadBalancerIngress) bool { return i.IP == address }
		return slices.ContainsFunc(s.Status.LoadBalancer.Ingress, ours)
	}
	queue := slices.Clone(services)
	slices.SortFunc(queue, func(a, b *corev1.Service) int {
		if has(a) != has(b) {
			if has(a) {
				return -1
			}
			return 1
		}
		return cmp.Or(
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			cmp.Compare(a.Namespace, b.Namespace),
			cmp.Compare(a.Name, b.Name))
	})
	owners := map[claim]string{}
	for c, owner := range reserved {
		owners[c] = owner
	}
	var decisions []decision
	for _, s := range queue {
		// A class names another implementation: leave its Services alone.
		ours := s.Spec.Type == corev1.ServiceTypeLoadBalancer &&
			s.Spec.LoadBalancerClass == nil && s.DeletionTimestamp == nil
		if !ours {
			if has(s) {
				decisions = append(decisions, decision{service: s})
			}
			continue
		}
		refusal := taken(s, owners)
		if refusal == "" {
			for _, port := range s.Spec.Ports {
				owners[claim{port.Protocol, port.Port}] = "the Service " + s.Namespace + "/" + s.Name
			}
		}
		decisions = append(decisions, decision{service: s, granted: refusal == "", refusal: refusal})
	}
	return decisions
}

func taken(s *corev1.Service, owners map[claim]string) string {
	for _, port := range s.Spec.Ports {
		if owner, ok := owners[claim{port.Protocol, port.Port}]; ok {
			return fmt.Sprintf("port %d/%s of the only load balancer address belongs to %s: choose another port",
				port.Port, port.Protocol, owner)
		}
	}
	return ""
}
