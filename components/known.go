package components

import "github.com/pulumi/pulumi/sdk/v3/go/pulumi"

// known is what other components say, once all of it is known: what Prometheus asks, and the names that its rules match.
type known struct {
	Namespace string
	// FrontHost and DCGMHost resolve to the exporters. DCGMHost is empty without an exporter of our own.
	FrontHost, DCGMHost string
	WriterJobs          string
	Pools               []knownPool
}

type knownPool struct{ Name, Host, Workload string }

// whenKnown is the text that of makes of it. DCGMHost is that of our own exporter, or empty.
func (a *ObservabilityArgs) whenKnown(
	dcgmHost pulumi.StringInput, of func(known) (string, error),
) pulumi.StringOutput {
	values := pulumi.StringArray{a.Namespace, a.MetricsHost, dcgmHost, a.WriterJobs}
	for _, pool := range a.Pools {
		values = append(values, pool.Host, pool.Workload)
	}
	return values.ToStringArrayOutput().ApplyT(func(values []string) (string, error) {
		k := known{Namespace: values[0], FrontHost: values[1], DCGMHost: values[2], WriterJobs: values[3]}
		for i, pool := range a.Pools {
			k.Pools = append(k.Pools, knownPool{pool.Name, values[4+2*i], values[5+2*i]})
		}
		return of(k)
	}).(pulumi.StringOutput)
}
