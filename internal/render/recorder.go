// Package render runs a Pulumi program without an engine: a Recorder takes its place and keeps every resource. `make
// render` prints the Kubernetes objects from it, and tests check rules that every stack must follow.
package render

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// Resource is one registered resource.
type Resource struct {
	URN, Type, Name, Parent string
	Custom                  bool
	Inputs                  resource.PropertyMap
	Protect                 bool
	IgnoreChanges           []string
	Dependencies            []string
	// Provider is the URN and ID of the resource's provider. Empty for components and default providers.
	Provider string
}

// Recorder is a mock engine. Unlike the SDK's own mocks it names objects, generates secret passwords and sets the
// address of a load balancer, as the real engine and providers do.
type Recorder struct {
	// Preview leaves values unknown that only an update can know.
	Preview bool

	mu        sync.Mutex
	resources []Resource
}

var _ pulumi.MockResourceMonitor = (*Recorder)(nil)

// Run runs a project's program on a stack with the given config (keys without the project's prefix, objects as JSON).
// It returns the registered resources, sorted by URN.
func Run(project, stack string, values map[string]string, preview bool, program pulumi.RunFunc) ([]Resource, error) {
	recorder := &Recorder{Preview: preview}
	config := map[string]string{}
	for key, value := range values {
		config[project+":"+key] = value
	}
	// The CLI passes the config in the same variable.
	encoded, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	if err := os.Setenv(pulumi.EnvConfig, string(encoded)); err != nil {
		return nil, err
	}
	err = pulumi.RunErr(program, pulumi.WithMocks(project, stack, recorder), func(info *pulumi.RunInfo) {
		info.Config = config
		info.DryRun = preview
	})
	return recorder.Resources(), err
}

// Resources returns the registered resources, sorted by URN.
func (r *Recorder) Resources() []Resource {
	r.mu.Lock()
	defer r.mu.Unlock()
	sorted := append([]Resource(nil), r.resources...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].URN < sorted[j].URN })
	return sorted
}

// NewResource records a resource and answers as its provider would.
func (r *Recorder) NewResource(args pulumi.MockResourceArgs) (string, resource.PropertyMap, error) {
	outputs := args.Inputs.Copy()
	switch {
	case args.TypeToken == randomPassword:
		// Unlike the real one, it is known in a preview too: the SDK's mocks do not support unknown secrets.
		outputs["result"] = resource.MakeSecret(resource.NewStringProperty(password(args.Name)))
	case strings.HasPrefix(args.TypeToken, "kubernetes:") && args.Custom:
		outputs = autoname(args, outputs)
		if args.TypeToken == "kubernetes:core/v1:Service" && !r.Preview {
			outputs["status"] = loadBalancerStatus()
		}
	}
	r.record(args)
	id := args.Name + "-id"
	if r.Preview {
		id = ""
	}
	return id, outputs, nil
}

// Call always fails, because the program calls no provider functions.
func (r *Recorder) Call(args pulumi.MockCallArgs) (resource.PropertyMap, error) {
	return nil, fmt.Errorf("the program calls %s, which the recorder does not know", args.Token)
}

func (r *Recorder) record(args pulumi.MockResourceArgs) {
	rpc := args.RegisterRPC
	parentType := ""
	if parent := resource.URN(rpc.GetParent()); parent != "" && parent.QualifiedType() != resource.RootStackType {
		parentType = string(parent.QualifiedType()) + "$"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resources = append(r.resources, Resource{
		URN:  fmt.Sprintf("%s%s::%s", parentType, args.TypeToken, args.Name),
		Type: args.TypeToken, Name: args.Name, Parent: rpc.GetParent(), Custom: args.Custom, Inputs: args.Inputs,
		Protect: rpc.GetProtect(), IgnoreChanges: rpc.GetIgnoreChanges(), Dependencies: rpc.GetDependencies(),
		Provider: args.Provider,
	})
}

// autoname names an object that has no name, as Pulumi would: the resource's name and a suffix. The suffix is a hash of
// the content here, so that a rendered stack shows which objects a change replaces.
func autoname(args pulumi.MockResourceArgs, outputs resource.PropertyMap) resource.PropertyMap {
	metadata := resource.PropertyMap{}
	if m, ok := outputs["metadata"]; ok && plain(m).IsObject() {
		metadata = plain(m).ObjectValue().Copy()
	}
	if _, named := metadata["name"]; !named {
		metadata["name"] = resource.NewStringProperty(args.Name + "-" + contentHash(args.Inputs))
	}
	outputs["metadata"] = resource.NewObjectProperty(metadata)
	return outputs
}

func contentHash(inputs resource.PropertyMap) string {
	encoded, err := json.Marshal(toAny(resource.NewObjectProperty(inputs), keepSecrets))
	if err != nil {
		panic(err) // the value came from JSON-like properties
	}
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:4])
}

func loadBalancerStatus() resource.PropertyValue {
	return resource.NewPropertyValue(map[string]any{"loadBalancer": map[string]any{"ingress": []any{
		map[string]any{"ip": "192.0.2.1"},
	}}})
}

// plain removes the secret or output wrapper from a value.
func plain(v resource.PropertyValue) resource.PropertyValue {
	for {
		switch {
		case v.IsSecret():
			v = v.SecretValue().Element
		case v.IsOutput():
			v = v.OutputValue().Element
		default:
			return v
		}
	}
}

// Passwords returns the passwords that the Recorder generated, by resource name.
func Passwords(resources []Resource) map[string]string {
	found := map[string]string{}
	for _, r := range resources {
		if r.Type == randomPassword {
			found[r.Name] = password(r.Name)
		}
	}
	return found
}

const randomPassword = "random:index/randomPassword:RandomPassword"

// password depends only on the resource's name, so that goldens stay the same.
func password(name string) string {
	sum := sha256.Sum256([]byte("password of " + name))
	return hex.EncodeToString(sum[:20])
}
