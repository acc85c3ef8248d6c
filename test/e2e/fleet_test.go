//go:build e2e

package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

// The fleet is one that no machine here could hold. kwok simulates its nodes and pods; the engine, the API server, the
// scheduler and the controllers are the real ones.

// fleetSizes are the sizes of the measured stacks, in pools.
var fleetSizes = []int{1, 5, 10, 20}

func TestFleet(t *testing.T) { fleet(t) }

func fleet(t *testing.T) {
	mustUp(t)
	_, _, err := local(t, "destroy") // the cluster stays
	require.NoError(t, err)
	simulateNodes(t)
	t.Run("the objects of the largest stack are within the API's limits", fleetRendered)

	before := fleetObjects(t)
	var runs []fleetRun
	for _, pools := range fleetSizes {
		ok := t.Run(fmt.Sprintf("%d pools", pools), func(t *testing.T) {
			runs = append(runs, measureFleet(t, pools, before))
		})
		if !ok {
			return
		}
	}
	t.Log("\n" + fleetTable(runs))
	largest := runs[len(runs)-1]
	// Three times what two idle cores need.
	assert.Less(t, largest.up.wall, 3*time.Minute)
	assert.Less(t, largest.again.wall, 30*time.Second)
	saved := growth(runs, func(r fleetRun) cost { return r.up })
	once := growth(runs, func(r fleetRun) cost { return r.once })
	t.Logf("CPU of one more pool, above 10 pools compared with below: %.2f times; %.2f with the state saved once",
		saved, once)
	// Above 1.5, more than half of the largest stack's cost would grow with the square of its pools.
	assert.Less(t, once, 1.5, "the program, the engine and the provider grow faster than the stack")
}

// The fleet

type fleetPool struct {
	Name, Kind   string  // Kind is the kind of GPU, as in nvidia.com/gpu.product
	GiB          float64 // of each GPU
	Nodes, Teams []string
	Models       []fleetModel
}

type fleetModel struct {
	Name string
	GiB  int
}

// fleetPools returns the first n pools. Each has five nodes, five teams and ten models of its own.
func fleetPools(n int) (pools []fleetPool) {
	sizes := []float64{22.5, 44.5, 79.6, 139.8}
	for i := range n {
		p := fleetPool{
			Name: fmt.Sprintf("pool-%02d", i+1), Kind: fmt.Sprintf("kind-%02d", i+1), GiB: sizes[i%len(sizes)],
		}
		for j := range 5 {
			p.Nodes = append(p.Nodes, fmt.Sprintf("fleet-%02d-%d", i+1, j+1))
			p.Teams = append(p.Teams, fmt.Sprintf("team-%02d-%d", i+1, j+1))
		}
		// The largest fits on the two smallest GPUs.
		for j, size := range []int{4, 5, 6, 8, 10, 12, 16, 20, 30, 40} {
			p.Models = append(p.Models, fleetModel{fmt.Sprintf("model-%02d-%02d", i+1, j+1), size})
		}
		pools = append(pools, p)
	}
	return pools
}

// MiB is the memory of a GPU, as in nvidia.com/gpu.memory.
func (p fleetPool) MiB() int { return int(p.GiB * 1024) }

// ModelList is a YAML list of the models' names.
func (p fleetPool) ModelList() string {
	var names []string
	for _, m := range p.Models {
		names = append(names, m.Name)
	}
	return "[" + strings.Join(names, ", ") + "]"
}

// fromTemplate writes a file from the template test/e2e/testdata/NAME.tmpl.
func fromTemplate(t *testing.T, name string, data any) string {
	t.Helper()
	parsed, err := template.ParseFiles(filepath.Join(project, "test/e2e/testdata", name+".tmpl"))
	require.NoError(t, err)
	var text bytes.Buffer
	require.NoError(t, parsed.Execute(&text, data))
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, text.Bytes(), 0o600))
	return path
}

func fleetStack(t *testing.T, pools int) string {
	t.Helper()
	return fromTemplate(t, "fleet-stack.yaml", fleetPools(pools))
}

// simulateNodes adds the fleet's nodes and closes the real nodes for new pods. It undoes both when the test ends.
func simulateNodes(t *testing.T) {
	folders := extra(t, "kwok")
	log, err := os.Create(filepath.Join(t.TempDir(), "kwok.log"))
	require.NoError(t, err)
	kwok := exec.Command(filepath.Join(folders["kwok"], "kwok"), "--kubeconfig="+assignments(t, "env")["KUBECONFIG"],
		"--config="+filepath.Join(folders["kwok-stages"], "fast"),
		"--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
		// Without leases a node counts as lost after 50 s, and its pods then as not ready.
		"--node-lease-duration-seconds=40",
		"--node-ip=10.199.0.1", "--cidr=10.89.0.1/24") // outside the addresses of real pods
	kwok.Stdout, kwok.Stderr = log, log
	require.NoError(t, kwok.Start())
	t.Cleanup(func() {
		assert.NoError(t, kwok.Process.Kill())
		_ = kwok.Wait() // killed
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("the end of kwok's log:\n%s", text[max(0, len(text)-3000):])
		}
	})

	t.Cleanup(func() { kubectl(t, "uncordon", "-l", "type!=kwok") })
	kubectl(t, "cordon", "-l", "type!=kwok")
	nodes := fromTemplate(t, "fleet-nodes.yaml", map[string]any{
		"Pools":  fleetPools(slices.Max(fleetSizes)),
		"Others": []string{"fleet-cpu-1", "fleet-cpu-2", "fleet-cpu-3"},
	})
	t.Cleanup(func() { kubectl(t, "delete", "nodes", "-l", "type=kwok") })
	kubectl(t, "apply", "-f", nodes)
	kubectl(t, "wait", "--for=condition=Ready", "nodes", "-l", "type=kwok", "--timeout=120s")
	// A simulated pod can end only while kwok runs.
	t.Cleanup(func() {
		_, _, err := local(t, "destroy")
		assert.NoError(t, err)
	})
}

// Measurements

type fleetRun struct {
	pools, servers, resources  int
	load                       string // of the machine over a minute, before the run
	state                      int64  // bytes of the engine's state
	preview, up, again, delete cost
	once                       cost // of another up from nothing, which saves the state only at its end
}

// cost is what one command costs.
type cost struct {
	wall   time.Duration
	pulumi time.Duration            // the engine's part of it
	cpu    map[string]time.Duration // by program: bin/local and everything that it starts
	peak   map[string]int64         // by program: the most resident memory of one process, in bytes
	sum    int64                    // the most resident memory of all processes together
}

func (c cost) allCPU() (all time.Duration) {
	for _, d := range c.cpu {
		all += d
	}
	return all
}

func (c cost) String() string {
	var parts []string
	byPeak := func(a, b string) int { return cmp.Compare(c.peak[b], c.peak[a]) }
	for _, name := range slices.SortedFunc(maps.Keys(c.peak), byPeak) {
		part := fmt.Sprintf("%s %.1f s CPU, %d MiB", name, c.cpu[name].Seconds(), c.peak[name]>>20)
		parts = append(parts, part)
	}
	return fmt.Sprintf("%.1f s, %.1f of them the engine's; %d MiB together at most; %s",
		c.wall.Seconds(), c.pulumi.Seconds(), c.sum>>20, strings.Join(parts, "; "))
}

// commandLimit is several times what the largest stack takes. An update that waits for a pod which no node can run
// would take 45 minutes.
const commandLimit = 4 * time.Minute

// savedOnce makes the engine save its state only at the end. By default it writes the whole state each time it begins
// or ends a resource, wherever the state is in a file or a bucket. That cost grows with the square of the resources,
// and this project cannot change it.
var savedOnce = []string{"PULUMI_SKIP_CHECKPOINTS=true"}

// measured runs bin/local and measures it, and the processes that it starts, five times a second.
func measured(t *testing.T, args ...string) (string, cost) {
	t.Helper()
	return measuredWith(t, nil, args...)
}

// measuredWith does the same with more environment variables.
func measuredWith(t *testing.T, variables []string, args ...string) (string, cost) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	command := exec.CommandContext(ctx, filepath.Join(project, "bin", "local"), args...)
	command.Dir, command.WaitDelay, command.Env = project, time.Minute, append(os.Environ(), variables...)
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	var out, progress bytes.Buffer
	command.Stdout, command.Stderr = &out, io.MultiWriter(&progress, os.Stderr)

	c := cost{cpu: map[string]time.Duration{}, peak: map[string]int64{}}
	began := time.Now()
	require.NoError(t, command.Start())
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	seen := map[int]process{}
	ticks := time.NewTicker(200 * time.Millisecond)
	defer ticks.Stop()
	for running := true; running; {
		select {
		case err := <-ended:
			require.NoError(t, err, "%s", args)
			running = false
		case <-ticks.C:
			var sum int64
			for _, p := range descendants(command.Process.Pid) {
				sum += p.resident
				if p.name == "" { // it has ended, but its parent has not waited for it: its time still counts
					p.name, p.peak = seen[p.pid].name, seen[p.pid].peak
				}
				seen[p.pid] = p
			}
			c.sum = max(c.sum, sum)
		}
	}
	c.wall = time.Since(began)
	for _, p := range seen {
		if p.name == "" { // it ended before a second look
			continue
		}
		c.cpu[p.name] += p.cpu
		c.peak[p.name] = max(c.peak[p.name], p.peak)
	}
	step := regexp.MustCompile(`pulumi \w+: done in (\S+)`).FindStringSubmatch(progress.String())
	require.NotNil(t, step)
	var err error
	c.pulumi, err = time.ParseDuration(step[1])
	require.NoError(t, err)
	t.Logf("%s: %s", args[0], c)
	return out.String(), c
}

type process struct {
	pid, parent    int
	name           string
	cpu            time.Duration
	resident, peak int64
}

// descendants returns a process and its descendants, except those that end meanwhile.
func descendants(root int) (found []process) {
	const perSecond = 100 // clock ticks in /proc, on every Linux that Go runs on
	all := map[int]process{}
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		// pid (name) state ppid …: the name may contain spaces and brackets.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		number := func(i int) int64 { n, _ := strconv.ParseInt(fields[i], 10, 64); return n }
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		all[pid] = process{
			pid: pid, parent: int(number(1)),
			cpu:      time.Duration(number(11)+number(12)) * time.Second / perSecond,
			resident: number(21) * int64(os.Getpagesize()),
		}
	}
	for pid, p := range all {
		for up := pid; up != root && up > 1; up = all[up].parent {
			if all[up].parent == root {
				found = append(found, p.named())
			}
		}
	}
	if p, alive := all[root]; alive {
		found = append(found, p.named())
	}
	return found
}

// named adds the name of the program, and the most memory that it has had so far.
func (p process) named() process {
	if program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.pid)); err == nil {
		p.name = filepath.Base(program)
	}
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status); m != nil {
		kib, _ := strconv.ParseInt(string(m[1]), 10, 64)
		p.peak = kib << 10
	}
	return p
}

// measureFleet deploys a stack, measures it and removes it. before lists the objects in the cluster without it.
func measureFleet(t *testing.T, pools int, before []string) fleetRun {
	file := fleetStack(t, pools)
	load, err := os.ReadFile("/proc/loadavg")
	require.NoError(t, err)
	run := fleetRun{pools: pools, load: strings.Fields(string(load))[0]}
	changes := func(out, operation string) int {
		m := regexp.MustCompile(`(?m)^changes: +(\d+) ` + operation + `$`).FindStringSubmatch(out)
		require.NotNil(t, m, "nothing but %s in:\n%s", operation, out)
		n, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		return n
	}

	out, preview := measured(t, "preview", "--config", file)
	run.preview, run.resources = preview, changes(out, "create")
	out, run.up = measured(t, "up", "--ask=false", "--config", file)
	assert.Equal(t, run.resources, changes(out, "create"), "as in the preview")
	out, run.again = measured(t, "up", "--ask=false", "--config", file)
	assert.Equal(t, run.resources, changes(out, "same"))
	run.servers = serversInPlace(t)
	assert.Equal(t, 2*pools, run.servers)
	cluster := filepath.Dir(assignments(t, "env")["KUBECONFIG"])
	state, err := os.Stat(filepath.Join(cluster, "pulumi/backend/.pulumi/stacks/ollama-k8s/local.json"))
	require.NoError(t, err)
	run.state = state.Size()
	_, run.delete = measured(t, "destroy", "--config", file)
	assertGone(t, before)

	out, run.once = measuredWith(t, savedOnce, "up", "--ask=false", "--config", file)
	assert.Equal(t, run.resources, changes(out, "create"))
	measuredWith(t, savedOnce, "destroy", "--config", file)
	assertGone(t, before)
	return run
}

// assertGone waits until the cluster has only the objects that it had before. The volume goes a little later than its
// claim.
func assertGone(t *testing.T, before []string) {
	t.Helper()
	var left []string
	for ends := time.Now().Add(time.Minute); time.Now().Before(ends); time.Sleep(time.Second) {
		left = slices.DeleteFunc(fleetObjects(t), func(object string) bool {
			return slices.Contains(before, object)
		})
		if len(left) == 0 {
			return
		}
	}
	assert.Empty(t, left, "destroy leaves objects")
}

// serversInPlace counts the ready server pods, and compares the node of each with its pool's kind of GPU.
func serversInPlace(t *testing.T) (ready int) {
	var nodes, pods struct {
		Items []struct {
			Metadata struct {
				Name   string
				Labels map[string]string
			}
			Spec   struct{ NodeName string }
			Status struct {
				Conditions []struct{ Type, Status string }
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(kubectl(t, "get", "nodes", "-o", "json")), &nodes))
	out := kubectl(t, "get", "pods", "-n", "ollama", "-l", "app.kubernetes.io/component=ollama-server", "-o", "json")
	require.NoError(t, json.Unmarshal([]byte(out), &pods))
	kinds := map[string]string{}
	for _, node := range nodes.Items {
		kinds[node.Metadata.Name] = node.Metadata.Labels["nvidia.com/gpu.product"]
	}
	for _, pod := range pods.Items {
		pool := strings.TrimPrefix(pod.Metadata.Labels["app.kubernetes.io/instance"], "ollama-pool-")
		assert.Equal(t, "kind-"+pool, kinds[pod.Spec.NodeName], "%s is on %s", pod.Metadata.Name, pod.Spec.NodeName)
		for _, condition := range pod.Status.Conditions {
			if condition.Type == "Ready" && condition.Status == "True" {
				ready++
			}
		}
	}
	return ready
}

// fleetObjects lists all objects in the cluster, of any kind, except those that come and go by themselves.
func fleetObjects(t *testing.T) []string {
	t.Helper()
	transient := []string{"events", "events.events.k8s.io", "leases.coordination.k8s.io", "componentstatuses"}
	kinds := strings.Fields(kubectl(t, "api-resources", "--verbs=list", "-o", "name"))
	kinds = slices.DeleteFunc(kinds, func(kind string) bool { return slices.Contains(transient, kind) })
	out := kubectl(t, "get", strings.Join(kinds, ","), "-A", "--no-headers",
		"-o", "custom-columns=:kind,:metadata.namespace,:metadata.name")
	var objects []string
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		objects = append(objects, strings.Join(strings.Fields(line), " "))
	}
	return objects
}

func fleetTable(runs []fleetRun) string {
	var table strings.Builder
	columns := []string{
		"pools", "models", "teams", "server pods", "resources", "state", "preview", "up", "up, state saved once",
		"second up", "destroy", "CPU of up", "state saved once", "memory of preview", "of up", "of second up",
		"load before",
	}
	table.WriteString("| " + strings.Join(columns, " | ") + " |\n|" + strings.Repeat(" ---: |", len(columns)) + "\n")
	for _, r := range runs {
		fmt.Fprintf(&table, "| %d | %d | %d | %d | %d | %d KiB |",
			r.pools, 10*r.pools, 5*r.pools, r.servers, r.resources, r.state>>10)
		for _, took := range []time.Duration{
			r.preview.wall, r.up.wall, r.once.wall, r.again.wall, r.delete.wall, r.up.allCPU(), r.once.allCPU(),
		} {
			fmt.Fprintf(&table, " %.1f s |", took.Seconds())
		}
		for _, sum := range []int64{r.preview.sum, r.up.sum, r.again.sum} {
			fmt.Fprintf(&table, " %d MiB |", sum>>20)
		}
		fmt.Fprintf(&table, " %s |\n", r.load)
	}
	return table.String()
}

// growth is the CPU that one more pool costs between the two largest stacks, as a multiple of what it costs below them.
// It is CPU and not time, because other users of the machine hardly change it.
func growth(runs []fleetRun, of func(fleetRun) cost) float64 {
	perPool := func(from, to fleetRun) float64 {
		return (of(to).allCPU() - of(from).allCPU()).Seconds() / float64(to.pools-from.pools)
	}
	middle := runs[len(runs)-2]
	return perPool(middle, runs[len(runs)-1]) / perPool(runs[0], middle)
}

// fleetRendered renders the largest stack without a cluster. It reports how long that takes and how large the parts
// are, and checks that HAProxy accepts its configuration.
func fleetRendered(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "render")
	build := exec.Command("go", "build", "-o", binary, "./cmd/render")
	build.Dir = project
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))

	render := exec.Command(binary, "-stack", "local", "-config", fleetStack(t, slices.Max(fleetSizes)))
	render.Dir = project
	began := time.Now()
	text, err := render.Output()
	require.NoError(t, err)
	documents := strings.Split(string(text), "\n---\n")
	t.Logf("rendered: %d objects, %d KiB, in %.1f s", len(documents), len(text)>>10, time.Since(began).Seconds())

	var front map[string]string
	for _, document := range documents {
		var object struct {
			Kind     string
			Metadata struct{ Name string }
			Data     map[string]string
		}
		require.NoError(t, yaml.Unmarshal([]byte(document), &object))
		size := 0
		for _, value := range object.Data {
			size += len(value)
		}
		if object.Kind == "ConfigMap" {
			assert.Less(t, size, 1<<20, "ConfigMap %s is larger than the API server allows", object.Metadata.Name)
			if object.Data["haproxy.cfg"] != "" {
				front = object.Data
				t.Logf("the front's ConfigMap: %d KiB, haproxy.cfg %d KiB of it", size>>10, len(front["haproxy.cfg"])>>10)
			}
		}
	}
	require.NotEmpty(t, front)
	tool := exec.Command("go", "-C", filepath.Join(project, "local"), "run", "./cmd/tool", "haproxy")
	path, err := tool.Output()
	require.NoError(t, err)
	folder := t.TempDir()
	front["keys.map"] = "hash team\n"
	paths := strings.NewReplacer("/etc/haproxy-keys/", folder+"/", "/etc/haproxy/", folder+"/")
	for name, text := range front {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(paths.Replace(text)), 0o600))
	}
	check := exec.Command(strings.TrimSpace(string(path)), "-c", "-f", filepath.Join(folder, "haproxy.cfg"))
	out, err = check.CombinedOutput()
	require.NoError(t, err, string(out))
	assert.NotContains(t, string(out), "WARNING")
	used := check.ProcessState
	t.Logf("HAProxy accepts it: %.2f s CPU, %d MiB", (used.UserTime() + used.SystemTime()).Seconds(),
		used.SysUsage().(*syscall.Rusage).Maxrss>>10)
}
