// Package agent does for the embedded cluster what a cloud provider does for a cluster of its own: it makes volumes for
// claims, gives addresses to Services of type LoadBalancer, and keeps (simulated) GPUs on the nodes that have them.
//
// It is one small daemon outside the cluster, an ordinary client of the API server. It keeps no state: everything is in
// the API server's objects and in the folder of volumes.
package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
)

// Config configures the agent. Every field except GPUs is required.
type Config struct {
	Kubeconfig string           // of a user who may write nodes, services and volumes
	Volumes    string           // the folder that holds the volumes, one folder each
	Address    string           // the IP address of every load balancer
	Health     string           // HOST:PORT that serves /healthz
	GPUs       map[string]int64 // number of GPUs of each node, by its name
}

// resync repeats the work on every object now and then, in case an event got lost.
const resync = time.Minute

// Run works until ctx ends, and then returns nil. It returns an error if it cannot serve the health endpoint.
func Run(ctx context.Context, c Config) error {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return fmt.Errorf("kubeconfig %s: %w", c.Kubeconfig, err)
	}
	// The API server is on this machine, whatever proxy the environment names.
	config.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("kubeconfig %s: %w", c.Kubeconfig, err)
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	defer broadcaster.Shutdown()
	events := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "ollama-k8s-agent"})

	factory := informers.NewSharedInformerFactory(client, resync)
	balancer, err := newLoadBalancer(client, factory.Core().V1().Services(), events, c.Address)
	if err != nil {
		return err
	}
	cards, err := newGPUs(client, factory.Core().V1().Nodes(), c.GPUs)
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return balancer.run(ctx) })
	group.Go(func() error { return cards.run(ctx) })
	group.Go(func() error { return runVolumes(ctx, client, c.Volumes) })
	group.Go(func() error { return serveHealth(ctx, c.Health) })
	return group.Wait()
}

// serveHealth answers /healthz as long as the process lives.
func serveHealth(ctx context.Context, address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("health endpoint: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("health endpoint: %w", err)
	}
	return nil
}
