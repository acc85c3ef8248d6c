package components

import "github.com/pulumi/pulumi/sdk/v3/go/pulumi"

// known holds the outputs of other components that Prometheus needs: what it scrapes, and the names in its rules.
type known struct {
	Namespace string
	// FrontHost and DCGMHost resolve to the exporters. DCGMHost is empty if the stack deploys no dcgm-exporter.
	FrontHost, DCGMHost string
	WriterJobs          string
	Pools               []knownPool
}

type knownPool struct{ Name, Host, Workload string }

// whenKnown returns the text of a file that is made of these outputs.
func (a *ObservabilityArgs) whenKnown(
	dcgmHost pulumi.StringInput, text func(known) (string, error),
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
		return text(k)
	}).(pulumi.StringOutput)
}
