package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// fieldManager is the owner of the fields that the manifests set.
const fieldManager = "ollama-k8s"

// serviceLimit is how long DNS or the registry may take to answer: twenty times what they take on two busy cores.
const serviceLimit = 2 * time.Minute

// Ensure applies the objects server-side, so what is already right stays untouched. It waits until DNS resolves and the
// registry answers to this machine, because the API may still show the state from before a crash. It tells detail what
// it waits for.
func Ensure(ctx context.Context, config *rest.Config, v Values, detail func(string, ...any)) error {
	objects, err := Objects(v)
	if err != nil {
		return err
	}
	if err := apply(ctx, config, objects); err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	detail("waiting for DNS")
	if err := await(ctx, func(ctx context.Context) error { return resolve(ctx, v) }); err != nil {
		return fmt.Errorf("DNS does not answer: %w%s", err, explain(ctx, client, "kube-system", "coredns"))
	}
	if v.RegistryImage == "" {
		return nil
	}
	detail("waiting for the model registry")
	if err := await(ctx, func(ctx context.Context) error { return askRegistry(ctx, client) }); err != nil {
		return fmt.Errorf("the model registry does not answer: %w%s", err, explain(ctx, client, "registry", "registry"))
	}
	return nil
}

func apply(ctx context.Context, config *rest.Config, objects []*unstructured.Unstructured) error {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	plain, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(plain.Discovery()))
	for _, object := range objects {
		kind := object.GroupVersionKind()
		mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
		if err != nil {
			return fmt.Errorf("%s %s: %w", kind.Kind, object.GetName(), err)
		}
		resource := dynamic.ResourceInterface(client.Resource(mapping.Resource))
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			resource = client.Resource(mapping.Resource).Namespace(object.GetNamespace())
		}
		options := metav1.ApplyOptions{FieldManager: fieldManager, Force: true}
		if _, err := resource.Apply(ctx, object.GetName(), object, options); err != nil {
			return fmt.Errorf("apply %s %s: %w", kind.Kind, object.GetName(), err)
		}
	}
	return nil
}

// resolve asks the cluster's DNS for the name of the API server.
func resolve(ctx context.Context, v Values) error {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(v.DNSAddress, "53"))
	}}
	_, err := resolver.LookupHost(ctx, "kubernetes.default.svc."+v.Domain+".")
	return err
}

// askRegistry sends a request to the registry's Service from this machine.
func askRegistry(ctx context.Context, client kubernetes.Interface) error {
	service, err := client.CoreV1().Services("registry").Get(ctx, "registry", metav1.GetOptions{})
	if err != nil {
		return err
	}
	url := "http://" + net.JoinHostPort(service.Spec.ClusterIP, "5000") + "/healthz"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	// The default transport obeys proxy variables, so use another one.
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return nil
}

// await calls f, with a limit of a second for each call, until it returns nil. When the time is up, it returns f's last
// error.
func await(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, serviceLimit)
	defer cancel()
	for {
		attempt, done := context.WithTimeout(ctx, time.Second)
		err := f(attempt)
		done()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// explain returns the reasons that the API has for a Deployment that is not available.
func explain(ctx context.Context, client kubernetes.Interface, namespace, name string) string {
	// The caller's time may be up, so allow a little more for the explanation.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	var reasons string
	if deployment, err := client.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{}); err == nil {
		for _, c := range deployment.Status.Conditions {
			if c.Status != corev1.ConditionTrue || c.Type == appsv1.DeploymentReplicaFailure {
				reasons += fmt.Sprintf("\n  deployment %s/%s: %s: %s", namespace, name, c.Reason, c.Message)
			}
		}
	}
	pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return reasons
	}
	for _, pod := range pods.Items {
		for _, c := range pod.Status.Conditions {
			if c.Status != corev1.ConditionTrue && c.Message != "" {
				reasons += fmt.Sprintf("\n  pod %s/%s: %s: %s", namespace, pod.Name, c.Reason, c.Message)
			}
		}
		for _, s := range pod.Status.ContainerStatuses {
			if w := s.State.Waiting; w != nil {
				reasons += fmt.Sprintf("\n  pod %s/%s, container %s: %s: %s",
					namespace, pod.Name, s.Name, w.Reason, w.Message)
			}
		}
	}
	return reasons
}
