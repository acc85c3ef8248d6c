package vram

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Table prints a plan: the settings, a line for each model, and the memory left. memory is a pod's memory as deployed.
func (p Plan) Table(out io.Writer, pool, memory string) error {
	where := fmt.Sprintf("%d GPU(s) of %s", p.GPUs, size(p.GiB))
	if p.GPUs == 0 {
		where = "CPU, " + size(p.GiB)
	}
	fmt.Fprintf(out, "pool %s: %s; context %d x %d requests, KV cache %s; models that stay loaded: %d; memory of a "+
		"pod: %s\n",
		pool, where, p.Context, p.Parallel, p.CacheType, p.MaxLoaded, memory)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "  model\tcontext\tslots\tweights\tKV cache\tgraph\truntime\tuses\tto place it\tleft\t")
	for _, l := range p.Loads {
		left := "?"
		if p.GiB > 0 {
			left = fmt.Sprintf("%.1f", gib(p.capacity()-l.Uses()))
		}
		fmt.Fprintf(table, "  %s\t%d\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%s\t\n",
			l.Model.Name, l.Context, l.Parallel, gib(l.Weights), gib(l.KV), gib(l.Graph), gib(l.Device),
			gib(l.Uses()), gib(l.Needs()), left)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, model := range p.Unknown {
		fmt.Fprintf(out, "  %s: not planned, its memory is unknown: run `make lock`, or set models[].vramGiB\n", model)
	}
	if p.GPUs > 0 && p.GiB == 0 {
		fmt.Fprintln(out, "  not checked against the GPU: set gpu.vramGiB")
	}
	for _, warning := range p.Warnings {
		fmt.Fprintln(out, "  warning: "+warning)
	}
	return nil
}

func size(gib float64) string {
	if gib == 0 {
		return "unknown memory"
	}
	return fmt.Sprintf("%.1f GiB", gib)
}
