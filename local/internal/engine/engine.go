// Package engine runs the project's Pulumi program on the embedded cluster: the real engine and the real Kubernetes
// plugin, through the Automation API, with the program in this process. It needs no Pulumi installation and no account,
// and it does not touch the user's ~/.pulumi.
package engine

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/auto"
	"github.com/pulumi/pulumi/sdk/v3/go/auto/events"
	"github.com/pulumi/pulumi/sdk/v3/go/auto/optdestroy"
	"github.com/pulumi/pulumi/sdk/v3/go/auto/optpreview"
	"github.com/pulumi/pulumi/sdk/v3/go/auto/optrefresh"
	"github.com/pulumi/pulumi/sdk/v3/go/auto/optup"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"ollama-k8s/local/internal/progress"
	"ollama-k8s/local/internal/toolchain"
	"ollama-k8s/stacks"
)

// Project is the name of the Pulumi project, as in Pulumi.yaml.
const Project = "ollama-k8s"

// Tools are the CLI and the plugins that the program needs.
var Tools = []toolchain.Name{toolchain.Pulumi, toolchain.PulumiKubernetes, toolchain.PulumiRandom}

// Engine is one stack on one cluster.
type Engine struct {
	// Folder is the project folder, which holds Pulumi.yaml. It must be the working directory too, because the program
	// reads Modelfiles from there.
	Folder string
	// Stack is the stack's name, and StackFile its config.
	Stack, StackFile string
	// Kubeconfig of the cluster.
	Kubeconfig string
	// State is a folder for the stack's state and the CLI's own files. It goes away with the cluster.
	State string
	Log   *progress.Log
}

// Result is the result of an update.
type Result struct {
	// Changes counts the resources by operation: create, update, replace, delete, same.
	Changes map[string]int
	// Outputs of the stack, secrets in clear.
	Outputs map[string]any
}

// Changed is the number of resources that the update touched.
func (r Result) Changed() (n int) {
	for operation, count := range r.Changes {
		if operation != "same" {
			n += count
		}
	}
	return n
}

// Up updates the cluster to match the stack file.
func (e *Engine) Up(ctx context.Context) (Result, error) {
	stack, err := e.open(ctx)
	if err != nil {
		return Result{}, err
	}
	var result auto.UpResult
	err = e.Log.Step("pulumi up", func(step *progress.Step) error {
		told := e.watch(step)
		result, err = stack.Up(ctx, optup.EventStreams(told.channel),
			optup.SuppressOutputs(), optup.SuppressProgress(), optup.UserAgent("ollama-k8s/local"))
		return told.explain(err)
	})
	if err != nil {
		return Result{}, err
	}
	r := Result{Changes: map[string]int{}, Outputs: map[string]any{}}
	if changes := result.Summary.ResourceChanges; changes != nil {
		r.Changes = *changes
	}
	for name, output := range result.Outputs {
		r.Outputs[name] = output.Value
	}
	return r, nil
}

// Preview returns what Up would do, without doing it.
func (e *Engine) Preview(ctx context.Context) (map[string]int, error) {
	stack, err := e.open(ctx)
	if err != nil {
		return nil, err
	}
	changes := map[string]int{}
	err = e.Log.Step("pulumi preview", func(step *progress.Step) error {
		told := e.watch(step)
		result, err := stack.Preview(ctx, optpreview.EventStreams(told.channel),
			optpreview.SuppressOutputs(), optpreview.SuppressProgress())
		for operation, count := range result.ChangeSummary {
			changes[string(operation)] = count
		}
		return told.explain(err)
	})
	return changes, err
}

// Destroy removes everything that the stack made.
func (e *Engine) Destroy(ctx context.Context) error {
	stack, err := e.open(ctx)
	if err != nil {
		return err
	}
	return e.Log.Step("pulumi destroy", func(step *progress.Step) error {
		told := e.watch(step)
		_, err := stack.Destroy(ctx, optdestroy.EventStreams(told.channel),
			optdestroy.SuppressOutputs(), optdestroy.SuppressProgress())
		return told.explain(err)
	})
}

// Outputs returns the stack's outputs after the last update, secrets in clear.
func (e *Engine) Outputs(ctx context.Context) (map[string]any, error) {
	stack, err := e.open(ctx)
	if err != nil {
		return nil, err
	}
	outputs, err := stack.Outputs(ctx)
	if err != nil {
		return nil, err
	}
	values := map[string]any{}
	for name, output := range outputs {
		values[name] = output.Value
	}
	return values, nil
}

// open prepares the stack: tools, config and state. It also recovers from an interrupted update.
func (e *Engine) open(ctx context.Context) (auto.Stack, error) {
	none := auto.Stack{}
	if err := toolchain.Ensure(ctx, e.Log, Tools...); err != nil {
		return none, err
	}
	work, err := e.workFolder()
	if err != nil {
		return none, err
	}
	environment, err := e.environment()
	if err != nil {
		return none, err
	}
	// The program runs in this process, where the args of the Kubernetes provider read these two variables.
	for _, name := range []string{"KUBECONFIG", pulumi.EnvConfig} {
		if err := os.Setenv(name, environment[name]); err != nil {
			return none, err
		}
	}
	delete(environment, pulumi.EnvConfig)
	if err := os.Setenv("PATH", environment["PATH"]); err != nil {
		return none, err
	}
	cli, err := auto.NewPulumiCommand(nil)
	if err != nil {
		return none, err
	}
	stack, err := auto.UpsertStackInlineSource(ctx, e.Stack, Project, stacks.Deploy,
		auto.Pulumi(cli), auto.WorkDir(work), auto.PulumiHome(environment["PULUMI_HOME"]),
		auto.EnvVars(environment), auto.SecretsProvider("passphrase"))
	if err != nil {
		return none, fmt.Errorf("opening stack %s: %w", e.Stack, err)
	}
	return stack, e.recover(ctx, stack)
}

// recover releases the lock of an update that died, and refreshes the state of its pending operations from the cluster.
// Only one process at a time works on the cluster, so nobody holds a lock that recover finds.
func (e *Engine) recover(ctx context.Context, stack auto.Stack) error {
	locks, err := filepath.Glob(filepath.Join(e.State, "backend", ".pulumi", "locks", "*", "*", "*", "*.json"))
	if err != nil {
		return err
	}
	if len(locks) > 0 {
		if err := stack.Cancel(ctx); err != nil {
			return fmt.Errorf("releasing the lock of an interrupted update: %w", err)
		}
	}
	exported, err := stack.Export(ctx)
	if err != nil {
		return fmt.Errorf("reading the stack's state: %w", err)
	}
	var deployment struct {
		Pending []json.RawMessage `json:"pending_operations"`
	}
	if len(exported.Deployment) > 0 {
		if err := json.Unmarshal(exported.Deployment, &deployment); err != nil {
			return fmt.Errorf("reading the stack's state: %w", err)
		}
	}
	if len(deployment.Pending) == 0 {
		return nil
	}
	return e.Log.Step("pulumi refresh after an interrupted update", func(*progress.Step) error {
		_, err := stack.Refresh(ctx, optrefresh.ClearPendingCreates(),
			optrefresh.SuppressOutputs(), optrefresh.SuppressProgress())
		return err
	})
}

// environment is the environment of the CLI and its plugins.
func (e *Engine) environment() (map[string]string, error) {
	backend := filepath.Join(e.State, "backend")
	if err := os.MkdirAll(backend, 0o700); err != nil {
		return nil, err
	}
	passphrase, err := e.passphrase()
	if err != nil {
		return nil, err
	}
	values, err := stacks.ReadFile(e.StackFile, Project)
	if err != nil {
		return nil, err
	}
	config := map[string]string{}
	for key, value := range values {
		config[Project+":"+key] = value
	}
	encoded, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	path := []string{}
	for _, tool := range Tools {
		path = append(path, filepath.Dir(toolchain.Command(tool)))
	}
	return map[string]string{
		"PATH":                     strings.Join(append(path, os.Getenv("PATH")), string(os.PathListSeparator)),
		"PULUMI_HOME":              filepath.Join(e.State, "home"),
		"PULUMI_BACKEND_URL":       "file://" + backend,
		"PULUMI_CONFIG_PASSPHRASE": passphrase,
		"PULUMI_SKIP_UPDATE_CHECK": "true",
		// The toolchain builds the plugins. A missing one is an error, not a download.
		"PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
		"KUBECONFIG":     e.Kubeconfig,
		pulumi.EnvConfig: string(encoded),
	}, nil
}

// passphrase returns the passphrase for the state's secrets. Each cluster has its own.
func (e *Engine) passphrase() (string, error) {
	file := filepath.Join(e.State, "passphrase")
	known, err := os.ReadFile(file)
	if err == nil {
		return string(known), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	fresh := rand.Text()
	return fresh, os.WriteFile(file, []byte(fresh), 0o600)
}

// watching follows an operation's events.
type watching struct {
	channel chan events.EngineEvent
	done    chan struct{}
	errors  []string
}

// watch reports each resource as the engine reaches it, and collects the engine's errors.
func (e *Engine) watch(step *progress.Step) *watching {
	w := &watching{channel: make(chan events.EngineEvent), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for event := range w.channel {
			switch pre, did, said := event.ResourcePreEvent, event.ResOutputsEvent, event.DiagnosticEvent; {
			case pre != nil && pre.Metadata.Op != "same":
				step.Detail("%s %s", pre.Metadata.Op, shortURN(pre.Metadata.URN))
			case did != nil && did.Metadata.Op != "same" && !did.Planning:
				e.Log.Printf("  %s %s", did.Metadata.Op, shortURN(did.Metadata.URN))
			case said != nil && said.Severity == "error":
				w.errors = append(w.errors, shortURN(said.URN)+": "+strings.TrimSpace(plainText(said.Message)))
			}
		}
	}()
	return w
}

// explain waits for the last event, and returns the engine's errors instead of the CLI's whole output.
func (w *watching) explain(err error) error {
	if err == nil {
		<-w.done
		return nil
	}
	select {
	case <-w.done:
	case <-time.After(5 * time.Second): // an operation that fails before it begins does not end its events
	}
	if len(w.errors) == 0 {
		return err
	}
	return errors.New(strings.Join(w.errors, "\n"))
}

// shortURN is the type and the name of a resource, such as kubernetes:apps/v1:Deployment front.
func shortURN(urn string) string {
	parts := strings.Split(urn, "::")
	if len(parts) < 4 {
		return urn
	}
	types := strings.Split(parts[2], "$")
	return types[len(types)-1] + " " + parts[3]
}
