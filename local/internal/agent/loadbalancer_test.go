package agent

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const lbAddress = "10.199.0.2"

func service(name string, age time.Duration, change func(*corev1.Service), ports ...int32) *corev1.Service {
	created := metav1.NewTime(time.Unix(1_000_000, 0).Add(-age))
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, CreationTimestamp: created},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
	}
	for _, port := range ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Protocol: corev1.ProtocolTCP, Port: port})
	}
	if change != nil {
		change(s)
	}
	return s
}

func holding(s *corev1.Service) {
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: lbAddress}}
}

func TestDecisions(t *testing.T) {
	udp := func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP }
	otherClass := func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To("other") }
	otherType := func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }
	tests := []struct {
		name     string
		services []*corev1.Service
		granted  string   // names, in order of decision
		refused  string   // likewise
		because  []string // parts of the first refusal
	}{
		{name: "different ports share the address",
			services: []*corev1.Service{service("a", 1, nil, 80), service("b", 2, nil, 81)}, granted: "b a"},
		{name: "of two with the same port the older wins",
			services: []*corev1.Service{service("young", 1, nil, 80), service("old", 2, nil, 80)},
			granted:  "old", refused: "young", because: []string{"80/TCP", "n/old"}},
		{name: "a service that has the address keeps it against an older one",
			services: []*corev1.Service{service("young", 1, holding, 80), service("old", 2, nil, 80)},
			granted:  "young", refused: "old"},
		{name: "a service gets all its ports or none, and then claims none",
			services: []*corev1.Service{
				service("a", 3, nil, 80), service("b", 2, nil, 81, 80), service("c", 1, nil, 81),
			},
			granted: "a c", refused: "b"},
		{name: "the API server's port is refused",
			services: []*corev1.Service{service("a", 1, nil, 6443)}, refused: "a", because: []string{"API server"}},
		{name: "the same port of another protocol is another port",
			services: []*corev1.Service{service("a", 2, nil, 53), service("b", 1, udp, 53)}, granted: "a b"},
		{name: "a service of another class is left alone",
			services: []*corev1.Service{service("a", 1, otherClass, 80)}},
		{name: "a service of another type is left alone",
			services: []*corev1.Service{service("a", 1, otherType, 80)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var granted, refused, reasons []string
			for _, d := range decide(test.services, lbAddress) {
				if d.granted {
					granted = append(granted, d.service.Name)
				} else if d.refusal != "" {
					refused = append(refused, d.service.Name)
					reasons = append(reasons, d.refusal)
				}
			}
			if got := strings.Join(granted, " "); got != test.granted {
				t.Errorf("granted: %s", got)
			}
			if got := strings.Join(refused, " "); got != test.refused {
				t.Errorf("refused: %s", got)
			}
			for _, part := range test.because {
				if !strings.Contains(reasons[0], part) {
					t.Errorf("the reason %q does not name %s", reasons[0], part)
				}
			}
		})
	}
}

func TestAFormerLoadBalancerLosesTheAddress(t *testing.T) {
	s := service("a", 1, func(s *corev1.Service) { holding(s); s.Spec.Type = corev1.ServiceTypeClusterIP }, 80)
	decisions := decide([]*corev1.Service{s}, lbAddress)
	if len(decisions) != 1 || decisions[0].granted || decisions[0].refusal != "" {
		t.Errorf("decided %+v", decisions)
	}
}
