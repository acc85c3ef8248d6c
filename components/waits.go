package components

import (
	"fmt"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// How long things may take, and what Pulumi waits for.

// What a request waits for.
const (
	// answerSeconds is how long a connection may be silent: loading a 70B model from a network volume (5 min) and then a
	// whole generation that is not streamed (8k tokens at 15 tokens/s, 9 min) must fit.
	answerSeconds = 900
	// queueSeconds is how long a request waits for a slot: longer, and most clients have given up.
	queueSeconds = 120
	// hopSeconds are what a hop before the queue waits longer than the server may be silent: the queue, and a minute.
	hopSeconds = queueSeconds + 60
	// lookSeconds is how long a new front looks for servers before it is ready without: ten times what it takes to resolve
	// and check them.
	lookSeconds = 20
	// stopSeconds that Services and ingress controllers are given to forget a front before it stops to listen.
	stopSeconds = 10
)

// Pulumi waits as long for the pods of a server, and for the drain of the former ones.
const (
	// startSeconds cover a slow image pull (several GB) and the start.
	startSeconds = 1800
	// fillSeconds cover a writer's downloads, where each pod fills a claim of its own.
	fillSeconds = 4 * 3600
)

// writerTimeout bounds one update's downloads: 500 GB at 300 Mbit/s take 3 h 42 min.
const writerTimeout = "4h"

// seconds is a time limit as Pulumi reads it.
func seconds(n int) string { return fmt.Sprintf("%ds", n) }

// skipAwait marks an object whose readiness is another object's to tell: a Service without pods yet, a claim that binds
// only when a pod uses it. Waiting for it would time out while a long download goes on, or deadlock.
func skipAwait() pulumi.StringMap {
	return pulumi.StringMap{"pulumi.com/skipAwait": pulumi.String("true")}
}
