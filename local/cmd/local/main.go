// Command local is `make up` and `make down`: a real Kubernetes cluster on this machine, and the project's program deployed into it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"ollama-k8s/local/internal/engine"
	"ollama-k8s/local/internal/images"
	"ollama-k8s/local/internal/node"
	"ollama-k8s/local/internal/progress"
	"ollama-k8s/local/internal/toolchain"
	"ollama-k8s/stacks"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// where is what the flags say.
type where struct {
	project, config string
	ask             bool
}

func root() *cobra.Command {
	w := &where{}
	command := &cobra.Command{
		Use:           "local",
		Short:         "A real Kubernetes cluster on this machine, with the whole stack in it",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	command.PersistentFlags().StringVar(&w.project, "project", ".", "the project's folder, which holds Pulumi.yaml")
	command.PersistentFlags().StringVar(&w.config, "config", "", "a stack file in place of Pulumi.local.yaml")
	add := func(use, short string, run func(context.Context, *where) error) *cobra.Command {
		c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
			return run(c.Context(), w)
		}}
		command.AddCommand(c)
		return c
	}
	add("tools", "Build what up needs and this machine does not have yet; start nothing", tools)
	command.AddCommand(&cobra.Command{
		Use: "extra NAME...", Short: "Build what up does without, import it if the cluster is up, print where it lies: " + strings.Join(extraNames(), ", "),
		Args: cobra.MinimumNArgs(1), ValidArgs: extraNames(),
		RunE: func(c *cobra.Command, names []string) error { return provideExtras(c.Context(), names) },
	})
	add("up", "Start the cluster and deploy the stack; changes only what is missing or different", up).
		Flags().BoolVar(&w.ask, "ask", true, "ask the endpoint for a few tokens at the end; simulated pods have none")
	add("preview", "Tell what up would change in the running cluster", preview)
	add("destroy", "Remove the stack from the cluster, and leave the cluster", destroy)
	add("ask", "Ask the endpoint for a few tokens", askEndpoint)
	add("outputs", "Print the stack's outputs, secrets included, as shell assignments", outputs)
	add("down", "Stop the cluster and remove all that it left on the machine, but for the built tools", down)
	add("leftovers", "List what of the cluster is on the machine; fails if there is anything", leftovers)
	add("status", "Tell how each part of the cluster is", status)
	add("env", "Print the shell assignments with which kubectl finds the cluster", env)
	return command
}

// engine is the stack of the flags on a cluster. The program reads Modelfiles from the working directory, as it does under the CLI.
func (w *where) engine(kubeconfig string, log *progress.Log) (*engine.Engine, error) {
	file, err := w.stackFile()
	if err != nil {
		return nil, err
	}
	folder, err := filepath.Abs(w.project)
	if err != nil {
		return nil, err
	}
	if err := os.Chdir(folder); err != nil {
		return nil, err
	}
	state, err := node.StateDir()
	if err != nil {
		return nil, err
	}
	return &engine.Engine{Folder: folder, Stack: "local", StackFile: file, Kubeconfig: kubeconfig, State: filepath.Join(state, "pulumi"), Log: log}, nil
}

func (w *where) stackFile() (string, error) {
	if w.config != "" {
		return filepath.Abs(w.config)
	}
	return filepath.Abs(filepath.Join(w.project, "Pulumi.local.yaml"))
}

func up(ctx context.Context, w *where) error {
	began := time.Now()
	log := progress.New(os.Stderr)
	defer log.Summary()
	// A config that will be refused anyway must not cost the time to build a cluster.
	file, err := w.stackFile()
	if err != nil {
		return err
	}
	values, err := stacks.ReadFile(file, engine.Project)
	if err != nil {
		return err
	}
	if _, err := stacks.Load(values, os.DirFS(w.project)); err != nil {
		return err
	}

	list, err := prepare(ctx, log)
	if err != nil {
		return err
	}
	cluster, err := node.Up(ctx, log, list)
	if err != nil {
		return err
	}
	e, err := w.engine(cluster.Kubeconfig, log)
	if err != nil {
		return err
	}
	result, err := e.Up(ctx)
	if err != nil {
		return err
	}
	return w.tell(ctx, log, result, cluster.Kubeconfig, began)
}

// prepare builds and installs what a cluster with the stack in it needs. What is there is left alone.
func prepare(ctx context.Context, log *progress.Log) ([]images.Image, error) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return nil, fmt.Errorf("the embedded cluster needs Linux and root, this is %s and user %d: run it as root on a Debian machine, or run `pulumi up -s dev` against a cluster of your own", runtime.GOOS, os.Geteuid())
	}
	if err := toolchain.EnsureDebian(ctx, log); err != nil {
		return nil, fmt.Errorf("%w; or run `pulumi up -s dev` against a cluster of your own", err)
	}
	// What would be refused in the end is refused before half an hour of builds.
	if err := node.Check(ctx); err != nil {
		return nil, err
	}
	if err := toolchain.Ensure(ctx, log, append([]toolchain.Name{toolchain.Kubernetes, toolchain.Agent}, engine.Tools...)...); err != nil {
		return nil, err
	}
	return images.Ensure(ctx, log)
}

func tools(ctx context.Context, _ *where) error {
	log := progress.New(os.Stderr)
	defer log.Summary()
	_, err := prepare(ctx, log)
	return err
}

// tell asks the endpoint for its first tokens, if it is to, and says how to go on.
func (w *where) tell(ctx context.Context, log *progress.Log, result engine.Result, kubeconfig string, began time.Time) error {
	endpoint, model, key, err := example(result.Outputs)
	if err != nil {
		return err
	}
	until, says := "", ""
	if w.ask {
		if err := log.Step("first tokens", func(*progress.Step) error {
			answer, err := engine.FirstTokens(ctx, endpoint, key, model)
			until, says = " to the first tokens", fmt.Sprintf("%s says: %s\n", model, answer)
			return err
		}); err != nil {
			return err
		}
	}
	fmt.Printf("changes:    %s\n", describe(result.Changes))
	fmt.Printf("took:       %d s%s\n", int(time.Since(began).Seconds()), until)
	fmt.Printf("endpoint:   %s\n", endpoint)
	fmt.Printf("models:     %v\n", result.Outputs["models"])
	fmt.Printf("%s\nAsk it yourself:\n  %s\n\nLook around:\n  export KUBECONFIG=%s\n  kubectl get pods -A\n", says, result.Outputs["curl"], kubeconfig)
	return nil
}

// example is an endpoint, a model and a key from a stack's outputs.
func example(outputs map[string]any) (endpoint, model, key string, err error) {
	endpoint, _ = outputs["endpoint"].(string)
	if models, ok := outputs["models"].([]any); ok && len(models) > 0 {
		model, _ = models[0].(string)
	}
	keys, _ := outputs["apiKeys"].(map[string]any)
	for _, value := range keys {
		if key, _ = value.(string); key != "" {
			break
		}
	}
	if endpoint == "" || model == "" || key == "" {
		return "", "", "", errors.New("the stack has no endpoint, models or apiKeys among its outputs")
	}
	return endpoint, model, key, nil
}

func describe(changes map[string]int) string {
	text := ""
	for _, operation := range []string{"create", "update", "replace", "create-replacement", "delete-replaced", "delete", "same"} {
		if n := changes[operation]; n > 0 {
			text += fmt.Sprintf("%d %s, ", n, operation)
		}
	}
	if text == "" {
		return "none"
	}
	return text[:len(text)-2]
}

// running is the engine on the cluster that is up.
func (w *where) running(log *progress.Log) (*engine.Engine, error) {
	kubeconfig, err := node.Kubeconfig()
	if err != nil {
		return nil, err
	}
	return w.engine(kubeconfig, log)
}

func preview(ctx context.Context, w *where) error {
	e, err := w.running(progress.New(os.Stderr))
	if err != nil {
		return err
	}
	changes, err := e.Preview(ctx)
	if err != nil {
		return err
	}
	fmt.Println("changes:", describe(changes))
	return nil
}

func destroy(ctx context.Context, w *where) error {
	e, err := w.running(progress.New(os.Stderr))
	if err != nil {
		return err
	}
	return e.Destroy(ctx)
}

func askEndpoint(ctx context.Context, w *where) error {
	e, err := w.running(progress.New(os.Stderr))
	if err != nil {
		return err
	}
	outputs, err := e.Outputs(ctx)
	if err != nil {
		return err
	}
	endpoint, model, key, err := example(outputs)
	if err != nil {
		return err
	}
	answer, err := engine.FirstTokens(ctx, endpoint, key, model)
	if err != nil {
		return err
	}
	fmt.Printf("%s says: %s\n", model, answer)
	return nil
}

func down(ctx context.Context, _ *where) error { return node.Down(ctx, progress.New(os.Stderr)) }

func leftovers(ctx context.Context, _ *where) error {
	found, err := node.Leftovers(ctx)
	if err != nil {
		return err
	}
	for _, line := range found {
		fmt.Println(line)
	}
	if len(found) > 0 {
		return fmt.Errorf("%d things of the cluster are on the machine", len(found))
	}
	return nil
}
