//go:build e2e

package e2e

import "testing"

// TestBench measures the front alone, on a cluster that is up or comes up: `make bench`.
func TestBench(t *testing.T) {
	mustUp(t)
	t.Run("one queue", oneQueue)
	t.Run("up", streamsUp)
	t.Run("cost", overhead)
	t.Run("a flooding team", noisyNeighbour)
}
