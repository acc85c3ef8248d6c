package components

import (
	"fmt"

	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// What a client can make grow in a front, and its bounds. The pod's memory follows from them.

const (
	// frontThreads is HAProxy's number of threads, and the pod's CPU limit: one thread forwards some 30,000 tokens a
	// second.
	frontThreads = 2
	// largeBodies is how many bodies of the largest size a front holds at a time, waiting ones included. Smaller ones
	// count by their size.
	largeBodies = 16
)

// connections are the most that a front has at a time. Each may need a second one, to a server: all of them together
// stay below 20,000 files.
var connections = struct{ All, API, Source, Requests, Metrics, MetricsSource int }{
	All:      9800,
	API:      8200, // of clients
	Source:   4100, // of one address: half, for an ingress is one address
	Requests: 1500, // that the fronts hand on to the one that queues
	Metrics:  100,  // of Prometheus and the kubelet
	// One address that floods the metrics' port leaves the kubelet and Prometheus enough.
	MetricsSource: 50,
}

// bodiesMiB is the memory for bodies of requests.
func (a *AuthFrontArgs) bodiesMiB() int { return largeBodies * a.BodyMiB }

// luaMiB bounds Lua's memory: in each thread one large body and its windows, twice until they are collected, and 64 MiB
// for all else.
func (a *AuthFrontArgs) luaMiB() int { return 64 + 2*frontThreads*a.BodyMiB }

// memoryMiB is the pod's memory: 64 MiB for HAProxy itself, its maps and tables; the bodies; Lua; two more copies of a
// body in each thread, which HAProxy makes while it hands one to Lua; and for each connection 12 KiB, what an idle one
// of HTTP/2 takes.
func (a *AuthFrontArgs) memoryMiB() int {
	return 64 + a.bodiesMiB() + a.luaMiB() + 2*frontThreads*a.BodyMiB + connections.All*12/1024
}

// halfQueue is the length from which a queue is closed to background requests.
func (a *AuthFrontArgs) halfQueue() int { return (a.QueueLength + 1) / 2 }

// silenceSeconds is how long a server may be silent.
func (a *AuthFrontArgs) silenceSeconds() int { return min(answerSeconds, a.MaxSeconds) }

// resources of HAProxy's container. Its CPU is limited, unlike other pods': the threads are as many as the limit, not
// as the node's cores.
func (a *AuthFrontArgs) resources() *corev1.ResourceRequirementsArgs {
	memory := pulumi.String(fmt.Sprintf("%dMi", a.memoryMiB()))
	return &corev1.ResourceRequirementsArgs{
		Requests: pulumi.StringMap{"cpu": pulumi.String("250m"), "memory": memory},
		Limits:   pulumi.StringMap{"cpu": pulumi.String(fmt.Sprint(frontThreads)), "memory": memory},
	}
}

// concurrent is the most requests that the team may have under way.
func (t Team) concurrent() int {
	if t.ConcurrentRequests == 0 {
		return concurrentRequests
	}
	return t.ConcurrentRequests
}
