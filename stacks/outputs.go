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
//	models    the models that clients can request
//	curl      a command that sends a request to one of them, including a key (secret)
func export(ctx *pulumi.Context, config *Config, front *components.AuthFront) {
	ctx.Export("endpoint", front.Endpoint)
	ctx.Export("apiKeys", front.APIKeys)
	models := []string{}
	for _, name := range config.poolNames() {
		models = append(models, config.Pools[name].Models...)
	}
	ctx.Export("models", pulumi.ToStringArray(models))

	team, model := config.example()
	key := pulumi.String("KEY").ToStringOutput()
	if team != "" {
		key = front.APIKeys.MapIndex(pulumi.String(team))
	}
	forward, base := pulumi.String("").ToStringOutput(), front.Endpoint
	if config.Expose == (Expose{}) {
		// From outside the cluster, the only way in is a port-forward.
		forward = pulumi.Sprintf(
			"kubectl -n %s port-forward service/%s 8080:%d & sleep 2; ", config.Namespace.Name, front.ServiceName,
			front.ServicePort,
		)
		base = pulumi.String(front.Scheme + "localhost:8080").ToStringOutput()
	}
	body := fmt.Sprintf(`{"model": %q, "messages": [{"role": "user", "content": "Hello"}]}`, model)
	ctx.Export("curl", pulumi.Sprintf("%scurl -s %s/v1/chat/completions -H 'Authorization: Bearer %s' -H "+
		"'Content-Type: application/json' -d '%s'",
		forward, base, key, body))
}

// example returns a team that has a key from this stack (or "" if none has), and a model that it may use.
func (c *Config) example() (team, model string) {
	model = c.Pools[c.poolNames()[0]].Models[0]
	for _, name := range c.teamNames() {
		if c.Teams[name].Keys != nil && len(c.Teams[name].Keys) == 0 {
			continue
		}
		if granted := c.Teams[name].Models; len(granted) > 0 && granted[0] != "*" {
			model = granted[0]
		}
		return name, model
	}
	return "", model
}
