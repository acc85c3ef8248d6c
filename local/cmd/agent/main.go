// Command agent gives the embedded cluster what a cloud provider would: volumes, load balancer addresses and
// (simulated) GPUs. See package agent. `local up` starts it; you do not start it by hand.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"ollama-k8s/local/internal/agent"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var config agent.Config
	cmd := &cobra.Command{
		Use:           "agent",
		Short:         "Volumes, load balancer addresses and simulated GPUs for the embedded cluster",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return agent.Run(cmd.Context(), config) },
	}
	flags := cmd.Flags()
	flags.StringVar(&config.Kubeconfig, "kubeconfig", "", "path of an administrator's kubeconfig")
	flags.StringVar(&config.Volumes, "volumes", "", "folder that holds the volumes, one folder each")
	flags.StringVar(&config.Address, "address", "", "IP address that every Service of type LoadBalancer gets")
	flags.StringVar(&config.Health, "health", "", "HOST:PORT that serves /healthz")
	flags.StringToInt64Var(&config.GPUs, "gpus", nil, "number of GPUs of a node, as NODE=COUNT; may be repeated")
	for _, name := range []string{"kubeconfig", "volumes", "address", "health"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is defined above
		}
	}
	return cmd
}
