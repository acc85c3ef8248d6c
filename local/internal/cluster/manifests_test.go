package cluster

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

var testValues = Values{
	Domain: "cluster.local", DNSAddress: "10.96.0.10",
	DNSImage: "localhost/coredns:1", RegistryImage: "localhost/registry:1",
}

// typed converts an object, and fails on a field that its type does not have.
func typed(t *testing.T, object *unstructured.Unstructured) runtime.Object {
	t.Helper()
	into, err := scheme.Scheme.New(object.GroupVersionKind())
	if err != nil {
		t.Fatal(err)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, into, true); err != nil {
		t.Fatalf("%s %s: %v", object.GetKind(), object.GetName(), err)
	}
	return into
}

func TestEveryServiceFindsItsPodsAndTheirPorts(t *testing.T) {
	objects, err := Objects(testValues)
	if err != nil {
		t.Fatal(err)
	}
	var deployments []*appsv1.Deployment
	var services []*corev1.Service
	for _, object := range objects {
		switch o := typed(t, object).(type) {
		case *appsv1.Deployment:
			deployments = append(deployments, o)
		case *corev1.Service:
			services = append(services, o)
		}
	}
	if len(services) != 3 {
		t.Errorf("%d Services", len(services))
	}
	for _, s := range services {
		found := false
		for _, d := range deployments {
			selector := labels.SelectorFromSet(s.Spec.Selector)
			if d.Namespace != s.Namespace || !selector.Matches(labels.Set(d.Spec.Template.Labels)) {
				continue
			}
			found = true
			for _, port := range s.Spec.Ports {
				if !hasPort(d, port.TargetPort.StrVal) {
					t.Errorf("Service %s: no pod has a port %q", s.Name, port.TargetPort.StrVal)
				}
			}
		}
		if !found {
			t.Errorf("Service %s selects nothing", s.Name)
		}
	}
}

func hasPort(d *appsv1.Deployment, name string) bool {
	for _, port := range d.Spec.Template.Spec.Containers[0].Ports {
		if port.Name == name {
			return true
		}
	}
	return false
}

func TestWithoutItsImageTheRegistryIsLeftOut(t *testing.T) {
	v := testValues
	v.RegistryImage = ""
	objects, err := Objects(v)
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		if strings.Contains(object.GetNamespace()+object.GetName(), "registry") {
			t.Errorf("there is a %s %s", object.GetKind(), object.GetName())
		}
	}
}
