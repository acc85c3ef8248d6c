package render

import (
	"fmt"
	"slices"
	"strings"
)

// Rules for pods and the autoscalers of nodes.

// annotations returns the annotations of the pod template.
func (p pod) annotations() map[string]any {
	place := []string{"spec", "template", "metadata", "annotations"}
	if p.owner.Kind() == "CronJob" {
		place = append([]string{"spec", "jobTemplate"}, place...)
	}
	annotations, _ := p.owner.at(place...).(map[string]any)
	return annotations
}

// nodesCanGo checks that local volumes do not keep nodes. The Cluster Autoscaler never removes a node with a local
// volume unless the pod's annotation names the volume. It splits the annotation at commas and trims nothing.
func nodesCanGo(objects []Object) (wrong []string) {
	const prefix = "cluster-autoscaler.kubernetes.io/safe-to-evict"
	for _, p := range pods(objects) {
		annotations := p.annotations()
		if annotations[prefix] == "false" || p.owner.Kind() == "DaemonSet" { // kept on purpose; or removed with its node
			continue
		}
		safe, _ := annotations[prefix+"-local-volumes"].(string)
		for _, volume := range p.spec.list("volumes") {
			local := volume["hostPath"] != nil || volume["emptyDir"] != nil && volume.at("emptyDir", "medium") != "Memory"
			if local && !slices.Contains(strings.Split(safe, ","), fmt.Sprint(volume["name"])) {
				wrong = append(wrong, fmt.Sprintf(
					"%s: volume %v keeps the Cluster Autoscaler from removing its node", p.owner.key(), volume["name"],
				))
			}
		}
	}
	return wrong
}

// nodePoolsTakeTheirPods checks that a pod that selects a NodePool can run on a new node, which has only the labels
// that the NodePool requires.
func nodePoolsTakeTheirPods(objects []Object) (wrong []string) {
	nodePools := map[string]Object{}
	for _, o := range objects {
		if o.Kind() == "NodePool" {
			nodePools[o.Name()] = o
		}
	}
	for _, p := range pods(objects) {
		name := p.spec.at("nodeSelector", "karpenter.sh/nodepool")
		if name == nil {
			continue
		}
		nodePool, made := nodePools[fmt.Sprint(name)]
		if !made {
			wrong = append(wrong, fmt.Sprintf("%s: selects NodePool %v, which does not exist", p.owner.key(), name))
			continue
		}
		for _, taint := range nodePool.list("spec", "template", "spec", "taints") {
			if !p.tolerates(taint) {
				wrong = append(wrong, fmt.Sprintf(
					"%s: does not tolerate NodePool %v's taint %v", p.owner.key(), name, taint["key"],
				))
			}
		}
		wrong = append(wrong, p.labelsMissing(nodePool)...)
		limits, _ := nodePool.at("spec", "limits").(map[string]any)
		for _, c := range p.containers() {
			requests, _ := c.at("resources", "requests").(map[string]any)
			for resource, limit := range limits {
				if asked := requests[resource]; asked != nil && number(asked) > number(limit) {
					wrong = append(wrong, fmt.Sprintf(
						"%s: requests %v of %s, but NodePool %v has at most %v", p.owner.key(), asked, resource, name, limit,
					))
				}
			}
		}
	}
	return wrong
}

func (p pod) tolerates(taint Object) bool {
	return slices.ContainsFunc(p.spec.list("tolerations"), func(t Object) bool {
		return t["key"] == taint["key"] && t["operator"] == "Exists" && (t["effect"] == nil || t["effect"] == taint["effect"])
	})
}

// labelsMissing reports labels that the pod requires and a new node of the NodePool does not have.
func (p pod) labelsMissing(nodePool Object) (wrong []string) {
	has := map[any][]any{"karpenter.sh/nodepool": {nodePool.Name()}}
	for _, r := range nodePool.list("spec", "template", "spec", "requirements") {
		if r["operator"] == "In" {
			has[r["key"]], _ = r["values"].([]any)
		}
	}
	selector, _ := p.spec["nodeSelector"].(map[string]any)
	for label, value := range selector {
		if !slices.Contains(has[label], value) {
			wrong = append(wrong, fmt.Sprintf(
				"%s: selects %s=%v, which NodePool %s does not require", p.owner.key(), label, value, nodePool.Name(),
			))
		}
	}
	terms := p.spec.list("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	met := func(term Object) bool {
		for _, r := range term.list("matchExpressions") {
			values, _ := r["values"].([]any)
			in := slices.ContainsFunc(has[r["key"]], func(v any) bool { return slices.Contains(values, v) })
			if r["operator"] == "DoesNotExist" && has[r["key"]] != nil || r["operator"] != "DoesNotExist" && !in {
				return false
			}
		}
		return true
	}
	if len(terms) > 0 && !slices.ContainsFunc(terms, met) {
		wrong = append(wrong, fmt.Sprintf(
			"%s: no new node of NodePool %s meets its node affinity", p.owner.key(), nodePool.Name(),
		))
	}
	return wrong
}

func number(value any) (n int) {
	if _, err := fmt.Sscan(fmt.Sprint(value), &n); err != nil {
		return 0
	}
	return n
}

// queuesExist checks that a stack that makes queues makes all queues in which its pods wait.
func queuesExist(objects []Object) (wrong []string) {
	made := map[any]bool{}
	for _, o := range objects {
		if o.Kind() == "LocalQueue" {
			made[o.Name()] = true
		}
	}
	for _, p := range pods(objects) {
		if queue := p.owner.at(
			"metadata", "labels", "kueue.x-k8s.io/queue-name",
		); queue != nil && len(made) > 0 && !made[queue] {
			wrong = append(wrong, fmt.Sprintf("%s: waits in LocalQueue %v, which does not exist", p.owner.key(), queue))
		}
	}
	return wrong
}
