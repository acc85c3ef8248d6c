// Package vram answers how many models a pool's GPUs can hold. It knows nothing of Pulumi or Kubernetes.
package vram

import (
	"fmt"
	"sort"
)

// secondModelShare is Ollama's own rule: while a model is loaded, another one joins it only if it is predicted to take at most 80 % of
// the free VRAM; otherwise idle models are evicted for it.
const secondModelShare = 0.8

// Model is one model of a pool.
type Model struct {
	Name string
	// GiB of VRAM that the model takes when loaded, KV cache included. 0: not known.
	GiB float64
}

// MaxLoaded is how many of the models may stay loaded together in vramGiB of memory, whichever they are: 1 where anything is not known,
// and an error that names the model where one does not fit at all.
func MaxLoaded(vramGiB float64, models []Model) (int, error) {
	if vramGiB == 0 {
		return 1, nil
	}
	sizes := make([]float64, 0, len(models))
	for _, m := range models {
		if m.GiB > vramGiB {
			return 0, fmt.Errorf("%s needs %.1f GiB, the pool's pods have %.1f GiB", m.Name, m.GiB, vramGiB)
		}
		if m.GiB == 0 {
			return 1, nil
		}
		sizes = append(sizes, m.GiB)
	}
	// The largest come first: what holds for them holds for any other choice.
	sort.Sort(sort.Reverse(sort.Float64Slice(sizes)))
	free, loaded := vramGiB, 0
	for i, size := range sizes {
		share := secondModelShare
		if i == 0 {
			share = 1
		}
		if size > free*share {
			break
		}
		free -= size
		loaded++
	}
	return max(loaded, 1), nil
}
