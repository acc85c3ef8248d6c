// Command coredns is the cluster's DNS server: CoreDNS with only the plugins
// that a cluster without a way out needs. It leaves out forward, because there
// is no upstream resolver, and loop, which only guards against one.
package main

import (
	"github.com/coredns/coredns/coremain"

	// A plugin registers itself when it is imported; the order in which
	// plugins run is fixed by CoreDNS, not by this list.
	_ "github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	_ "github.com/coredns/coredns/plugin/rewrite"
	_ "github.com/coredns/coredns/plugin/template"
)

func main() { coremain.Run() }
