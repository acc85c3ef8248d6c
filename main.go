// Command ollama-k8s is the Pulumi program that `pulumi up` runs.
package main

import (
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"ollama-k8s/stacks"
)

func main() { pulumi.Run(stacks.Deploy) }
