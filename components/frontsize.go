package components

import (
	"fmt"

	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// Limits for everything that clients can make grow in a front. They determine the pod's memory.

const (
	// frontThreads is the number of HAProxy's threads, and the pod's CPU limit. One thread forwards about 30,000 tokens
	// per second.
	frontThreads = 2
	// largeBodies is how many bodies of the largest size a front holds at a time, including those of waiting requests.
	// Smaller ones count by their size.
	largeBodies = 16
)

// connections are the largest numbers of connections that a front has at a time. Each may need a second one, to a
// server. Together they stay below 20,000 files.
var connections = struct{ All, API, Source, Requests, Metrics, MetricsSource int }{
	All:      9800,
	API:      8200, // from clients
	Source:   4100, // from one address: half, because an ingress is one address
	Requests: 1500, // that the fronts forward to the one that queues
	Metrics:  100,  // from Prometheus and the kubelet
	// If one address floods the metrics port, the kubelet and Prometheus still get connections.
	MetricsSource: 50,
}

// bodiesMiB returns the memory for request bodies.
func (a *AuthFrontArgs) bodiesMiB() int { return largeBodies * a.BodyMiB }

// luaMiB returns the limit of Lua's memory: one large body and its windows per thread, twice because of garbage
// collection, and 64 MiB for everything else.
func (a *AuthFrontArgs) luaMiB() int { return 64 + 2*frontThreads*a.BodyMiB }

// memoryMiB returns the pod's memory: 64 MiB for HAProxy itself with its maps and tables; the bodies; Lua; per thread
// two more copies of a body, which HAProxy makes when it passes one to Lua; and 12 KiB per connection, the size of an
// idle HTTP/2 connection.
func (a *AuthFrontArgs) memoryMiB() int {
	return 64 + a.bodiesMiB() + a.luaMiB() + 2*frontThreads*a.BodyMiB + connections.All*12/1024
}

// halfQueue returns the length from which a queue rejects background requests.
func (a *AuthFrontArgs) halfQueue() int { return (a.QueueLength + 1) / 2 }

// silenceSeconds returns how long a server may be silent.
func (a *AuthFrontArgs) silenceSeconds() int { return min(answerSeconds, a.MaxSeconds) }

// resources returns the resources of HAProxy's container. Unlike other containers it has a CPU limit, because the
// number of threads follows the limit and not the node's cores.
func (a *AuthFrontArgs) resources() *corev1.ResourceRequirementsArgs {
	memory := pulumi.String(fmt.Sprintf("%dMi", a.memoryMiB()))
	return &corev1.ResourceRequirementsArgs{
		Requests: pulumi.StringMap{"cpu": pulumi.String("250m"), "memory": memory},
		Limits:   pulumi.StringMap{"cpu": pulumi.String(fmt.Sprint(frontThreads)), "memory": memory},
	}
}

// concurrent returns how many requests the team may have in flight.
func (t Team) concurrent() int {
	if t.ConcurrentRequests == 0 {
		return concurrentRequests
	}
	return t.ConcurrentRequests
}
