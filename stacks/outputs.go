package stacks

import (
	"fmt"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"ollama-k8s/components"
)

// export publishes the stack's outputs:
//
//	endpoint  the base URL of the API
//	apiKeys   the key of each team (secret)
//	models    the models that can be asked for
//	curl      a command that asks one of them, with a key in it (secret)
func export(ctx *pulumi.Context, config *Config, front *components.AuthFront) {
	ctx.Export("endpoint", front.Endpoint)
	ctx.Export("apiKeys", front.APIKeys)
	models := []string{}
	for _, name := range config.poolNames() {
		models = append(models, config.Pools[name].Models...)
	}
	ctx.Export("models", pulumi.ToStringArray(models))

	team, model := config.example()
	forward, base := "", front.Endpoint
	if config.Expose == (Expose{}) {
		// From outside the cluster the only way in is a tunnel.
		forward = fmt.Sprintf("kubectl -n %s port-forward service/front 8080:80 & sleep 2; ", config.Namespace.Name)
		base = pulumi.String("http://localhost:8080").ToStringOutput()
	}
	body := fmt.Sprintf(`{"model": %q, "messages": [{"role": "user", "content": "Hello"}]}`, model)
	ctx.Export("curl", pulumi.Sprintf("%scurl -s %s/v1/chat/completions -H 'Authorization: Bearer %s' -H 'Content-Type: application/json' -d '%s'",
		forward, base, front.APIKeys.MapIndex(pulumi.String(team)), body))
}

// example is a team and a model that it may use.
func (c *Config) example() (team, model string) {
	team = c.teamNames()[0]
	for _, granted := range c.Teams[team].Models {
		if granted != "*" {
			return team, granted
		}
	}
	return team, c.Pools[c.poolNames()[0]].Models[0]
}
