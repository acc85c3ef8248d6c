//go:build e2e

package e2e

import (
	"testing"
	"time"
)

// TestBench measures the front alone, scaling by prometheus-adapter, and how updates grow with the fleet. It uses a
// running cluster or starts one: `make bench`.
func TestBench(t *testing.T) {
	mustUp(t)
	t.Run("one queue", oneQueueMeasured)
	t.Run("up", streamsUp)
	t.Run("cost before real models", overheadBeforeModels)
	t.Run("cost", overhead)
	t.Run("a flooding team", noisyNeighbour)
	t.Run("five minutes without DNS", withoutDNS(5*time.Minute))
	t.Run("alerts report what is broken, and end when it is mended", liveAlerts)
	t.Run("KEDA", kedaUp)
	t.Run("a pool grows to its maximum and shrinks, and keeps its size while Prometheus is away", scaleUpAndDown(true))
	t.Run("no KEDA", kedaDown)
	t.Run("a plain HorizontalPodAutoscaler", scaleByAdapter)
	t.Run("a fleet", fleet)
}
