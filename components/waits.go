package components

import (
	"fmt"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// Time limits of a request.
const (
	// answerSeconds is how long a connection may be silent. Loading a 70B model from a network volume (5 min) and then
	// generating a whole answer without streaming (8k tokens at 15 tokens/s, 9 min) must fit.
	answerSeconds = 900
	// queueSeconds is how long a request waits for a slot. Most clients give up after this time.
	queueSeconds = 120
	// hopSeconds is how much longer a hop in front of the queue waits than the server may be silent: the time in the
	// queue, and a minute.
	hopSeconds = queueSeconds + 60
	// lookSeconds is how long a new front looks for servers before it becomes ready without them: ten times the time to
	// resolve and check them.
	lookSeconds = 20
	// stopSeconds is how long Services and ingress controllers have to remove a front before it stops listening.
	stopSeconds = 10
)

// How long Pulumi waits for the pods of a server, and for the drain of the old ones.
const (
	// startSeconds covers a slow image pull (several GB) and the start.
	startSeconds = 1800
	// fillSeconds covers the downloads if each pod fills its own claim.
	fillSeconds = 4 * 3600
)

// writerTimeout bounds one update's downloads: 500 GB at 300 Mbit/s take 3 h 42 min.
const writerTimeout = "4h"

// seconds formats a time limit for Pulumi.
func seconds(n int) string { return fmt.Sprintf("%ds", n) }

// skipAwait marks an object for which Pulumi must not wait: a Service without pods yet, or a claim that binds only when
// a pod uses it. Waiting would time out during a long download, or deadlock.
func skipAwait() pulumi.StringMap {
	return pulumi.StringMap{"pulumi.com/skipAwait": pulumi.String("true")}
}
