// Command local implements `make up` and `make down`: it starts a real Kubernetes cluster on this machine and deploys
// the project's program into it.
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

// where holds the values of the flags.
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
	command.PersistentFlags().StringVar(&w.project, "project", ".", "project folder, which holds Pulumi.yaml")
	command.PersistentFlags().StringVar(&w.config, "config", "", "stack file to use instead of Pulumi.local.yaml")
	add := func(use, short string, run func(context.Context, *where) error) *cobra.Command {
		c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
			return run(c.Context(), w)
		}}
		command.AddCommand(c)
		return c
	}
	add("tools", "Build the tools and images that up needs, without starting anything", tools)
	command.AddCommand(&cobra.Command{
		Use: "extra NAME...",
		Short: "Build extra software, import its images if the cluster is up, and print its folders: " +
			strings.Join(extraNames(), ", "),
		Args: cobra.MinimumNArgs(1), ValidArgs: extraNames(),
		RunE: func(c *cobra.Command, names []string) error { return provideExtras(c.Context(), names) },
	})
	add("up", "Start the cluster and deploy the stack, changing only what is missing or different", up).
		Flags().BoolVar(&w.ask, "ask", true, "ask the endpoint for a few tokens at the end; simulated pods serve none")
	add("preview", "Show what up would change in the running cluster", preview)
	add("destroy", "Remove the stack and keep the cluster", destroy)
	add("ask", "Ask the endpoint for a few tokens", askEndpoint)
	add("outputs", "Print the stack's outputs, secrets included, as shell assignments", outputs)
	add("down", "Stop the cluster and remove all of it from this machine, except the built tools", down)
	add("leftovers", "List what is left of the cluster on this machine; fail if there is anything", leftovers)
	add("status", "Show the health of each part of the cluster", status)
	add("env", "Print shell assignments that point kubectl to the cluster", env)
	return command
}

// engine returns an engine for the stack file of the flags. It changes into the project folder, because the program
// reads Modelfiles from the working directory, as it does under the CLI.
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
	return &engine.Engine{
		Folder: folder, Stack: "local", StackFile: file,
		Kubeconfig: kubeconfig, State: filepath.Join(state, "pulumi"), Log: log,
	}, nil
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
	// Refuse a wrong config before spending time on a cluster.
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

// prepare builds and installs what is missing for a cluster that runs the stack.
func prepare(ctx context.Context, log *progress.Log) ([]images.Image, error) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return nil, fmt.Errorf("the embedded cluster needs Linux and root, this is %s and user %d: run it as root on "+
			"a Debian machine, or run `pulumi up -s dev` against a cluster of your own", runtime.GOOS, os.Geteuid())
	}
	if err := toolchain.EnsureDebian(ctx, log); err != nil {
		return nil, fmt.Errorf("%w; or run `pulumi up -s dev` against a cluster of your own", err)
	}
	// Refuse an unfit machine before 20 minutes of builds.
	if err := node.Check(ctx); err != nil {
		return nil, err
	}
	needed := append([]toolchain.Name{toolchain.Kubernetes, toolchain.Agent}, engine.Tools...)
	if err := toolchain.Ensure(ctx, log, needed...); err != nil {
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

// tell asks the endpoint for its first tokens, unless --ask=false, and prints what you can do next.
func (w *where) tell(
	ctx context.Context, log *progress.Log, result engine.Result, kubeconfig string, began time.Time,
) error {
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
	fmt.Printf("%s\nAsk it yourself:\n  %s\n\n", says, result.Outputs["curl"])
	fmt.Printf("Look around:\n  export KUBECONFIG=%s\n  kubectl get pods -A\n", kubeconfig)
	return nil
}

// example picks an endpoint, a model and a key from a stack's outputs.
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
	operations := []string{"create", "update", "replace", "create-replacement", "delete-replaced", "delete", "same"}
	for _, operation := range operations {
		if n := changes[operation]; n > 0 {
			text += fmt.Sprintf("%d %s, ", n, operation)
		}
	}
	if text == "" {
		return "none"
	}
	return text[:len(text)-2]
}

// running returns an engine for the running cluster.
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
		return fmt.Errorf("the cluster left %d things on this machine", len(found))
	}
	return nil
}
