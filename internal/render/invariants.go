package render

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Rules for every stack. Each check returns a line per violation, and Violations runs all checks.

// Violations returns what is wrong with a stack, sorted. A valid stack has none.
func Violations(resources []Resource) []string {
	objects := Objects(resources)
	var wrong []string
	for _, check := range []func([]Object) []string{
		selectorsMatchPods, servicePortsReachContainers, referencesResolve, podsAreRestricted, containersAreSizedAndProbed,
		imagesArePinned,
		policiesCoverPods, scalersOwnReplicas, configsReachTheirPods, targetsExist, nodesCanGo, nodePoolsTakeTheirPods,
		queuesExist,
	} {
		wrong = append(wrong, check(objects)...)
	}
	wrong = append(wrong, everythingDescendsFromAComponent(resources)...)
	wrong = append(wrong, everythingUsesTheStacksProvider(resources)...)
	sort.Strings(wrong)
	return wrong
}

// pod is a pod template and the object that holds it.
type pod struct {
	owner  Object
	labels map[string]any
	spec   Object
}

func pods(objects []Object) (found []pod) {
	for _, o := range objects {
		place := []string{"spec", "template"}
		if o.Kind() == "CronJob" {
			place = []string{"spec", "jobTemplate", "spec", "template"}
		}
		template, ok := o.at(place...).(map[string]any)
		if !ok || !slices.Contains([]string{"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"}, o.Kind()) {
			continue
		}
		labels, _ := Object(template).at("metadata", "labels").(map[string]any)
		spec, _ := template["spec"].(map[string]any)
		found = append(found, pod{o, labels, spec})
	}
	return found
}

// containers returns the pod's containers, including init containers.
func (p pod) containers() []Object {
	return append(p.spec.list("initContainers"), p.spec.list("containers")...)
}

// list returns the objects in the list at a path of keys.
func (o Object) list(keys ...string) (found []Object) {
	items, _ := o.at(keys...).([]any)
	for _, item := range items {
		if object, ok := item.(map[string]any); ok {
			found = append(found, object)
		}
	}
	return found
}

func matches(selector any, labels map[string]any) bool {
	wanted, _ := selector.(map[string]any)
	for key, value := range wanted {
		if labels[key] != value {
			return false
		}
	}
	return len(wanted) > 0
}

func selectorsMatchPods(objects []Object) (wrong []string) {
	for _, o := range objects {
		var selector any
		switch o.Kind() {
		case "Service":
			selector = o.at("spec", "selector")
		case "Deployment", "PodDisruptionBudget", "PodMonitor":
			selector = o.at("spec", "selector", "matchLabels")
		case "NetworkPolicy":
			selector = o.at("spec", "podSelector", "matchLabels")
		default:
			continue
		}
		if !slices.ContainsFunc(pods(objects), func(p pod) bool { return matches(selector, p.labels) }) {
			wrong = append(wrong, fmt.Sprintf("%s: selects no pod", o.key()))
		}
	}
	return wrong
}

func servicePortsReachContainers(objects []Object) (wrong []string) {
	for _, o := range objects {
		if o.Kind() != "Service" {
			continue
		}
		for _, port := range o.list("spec", "ports") {
			for _, p := range pods(objects) {
				if matches(o.at("spec", "selector"), p.labels) && !p.hasPort(port["targetPort"]) {
					wrong = append(wrong, fmt.Sprintf(
						"%s: port %v targets %v, which %s does not have", o.key(), port["name"], port["targetPort"], p.owner.key(),
					))
				}
			}
		}
	}
	return wrong
}

func (p pod) hasPort(name any) bool {
	for _, c := range p.containers() {
		for _, port := range c.list("ports") {
			if port["name"] == name {
				return true
			}
		}
	}
	return false
}

// existingClaimPrefix begins the names of claims that exist outside the stack in tests.
const existingClaimPrefix = "existing-"

func referencesResolve(objects []Object) (wrong []string) {
	exists := map[string]bool{}
	for _, o := range objects {
		exists[o.key()] = true
	}
	for _, p := range pods(objects) {
		volumes := map[any]bool{}
		for _, v := range p.spec.list("volumes") {
			volumes[v["name"]] = true
			reference := ""
			switch {
			case v["configMap"] != nil:
				reference = fmt.Sprint("ConfigMap/", v.at("configMap", "name"))
			case v["secret"] != nil:
				reference = fmt.Sprint("Secret/", v.at("secret", "secretName"))
			case v["persistentVolumeClaim"] != nil:
				reference = fmt.Sprint("PersistentVolumeClaim/", v.at("persistentVolumeClaim", "claimName"))
			default:
				continue
			}
			if !exists[reference] && !strings.Contains(reference, "/"+existingClaimPrefix) {
				wrong = append(wrong, fmt.Sprintf(
					"%s: volume %v refers to %s, which does not exist", p.owner.key(), v["name"], reference,
				))
			}
		}
		for _, claim := range p.owner.list("spec", "volumeClaimTemplates") {
			volumes[claim.at("metadata", "name")] = true
		}
		for _, c := range p.containers() {
			for _, m := range c.list("volumeMounts") {
				if !volumes[m["name"]] {
					wrong = append(wrong, fmt.Sprintf(
						"%s: container %v mounts %v, which is not a volume", p.owner.key(), c["name"], m["name"],
					))
				}
			}
		}
	}
	return wrong
}

// configsReachTheirPods checks that pods notice a changed ConfigMap. An immutable ConfigMap gets a new name, and the
// program must reload a mutable one.
func configsReachTheirPods(objects []Object) (wrong []string) {
	mutable := map[any]bool{}
	for _, o := range objects {
		if o.Kind() == "ConfigMap" && o["immutable"] != true {
			mutable[o.Name()] = true
		}
	}
	for _, p := range pods(objects) {
		reads := strings.Contains(p.spec.Text(), "--enable-feature=auto-reload-config")
		for _, v := range p.spec.list("volumes") {
			if name := v.at("configMap", "name"); mutable[name] && !reads {
				wrong = append(wrong, fmt.Sprintf(
					"%s: would not notice a change of ConfigMap %v, which is mutable", p.owner.key(), name,
				))
			}
		}
	}
	return wrong
}

func podsAreRestricted(objects []Object) (wrong []string) {
	open := map[any]bool{} // the stack's own namespaces that allow privileged pods
	for _, o := range objects {
		if o.Kind() == "Namespace" && o.at("metadata", "labels", "pod-security.kubernetes.io/enforce") == "privileged" {
			open[o.Name()] = true
		}
	}
	for _, p := range pods(objects) {
		if open[p.owner.at("metadata", "namespace")] {
			continue
		}
		expect := func(what string, got, want any) {
			if fmt.Sprint(got) != fmt.Sprint(want) {
				wrong = append(wrong, fmt.Sprintf("%s: %s is %v, must be %v", p.owner.key(), what, got, want))
			}
		}
		expect("runAsNonRoot", p.spec.at("securityContext", "runAsNonRoot"), true)
		expect("seccompProfile.type", p.spec.at("securityContext", "seccompProfile", "type"), "RuntimeDefault")
		expect("automountServiceAccountToken", p.spec["automountServiceAccountToken"], false)
		if uid, ok := p.spec.at("securityContext", "runAsUser").(int64); !ok || uid == 0 {
			expect("runAsUser", p.spec.at("securityContext", "runAsUser"), "a number above 0")
		}
		for _, c := range p.containers() {
			expect("allowPrivilegeEscalation", c.at("securityContext", "allowPrivilegeEscalation"), false)
			expect("readOnlyRootFilesystem", c.at("securityContext", "readOnlyRootFilesystem"), true)
			expect("capabilities.drop", c.at("securityContext", "capabilities", "drop"), []any{"ALL"})
		}
	}
	return wrong
}

func containersAreSizedAndProbed(objects []Object) (wrong []string) {
	for _, p := range pods(objects) {
		for _, c := range p.containers() {
			missing := func(keys ...string) {
				if c.at(keys...) == nil {
					wrong = append(wrong, fmt.Sprintf("%s: container %v has no %s", p.owner.key(), c["name"], strings.Join(keys, ".")))
				}
			}
			missing("resources", "requests", "cpu")
			missing("resources", "requests", "memory")
			missing("resources", "limits", "memory")
		}
		if strings.HasSuffix(p.owner.Kind(), "Job") { // a Job needs no probe: its exit status tells
			continue
		}
		for _, c := range p.spec.list("containers") {
			for _, probe := range []string{"readinessProbe", "livenessProbe"} {
				if c[probe] == nil {
					wrong = append(wrong, fmt.Sprintf("%s: container %v has no %s", p.owner.key(), c["name"], probe))
				}
			}
		}
	}
	return wrong
}

func imagesArePinned(objects []Object) (wrong []string) {
	for _, p := range pods(objects) {
		for _, c := range p.containers() {
			image := fmt.Sprint(c["image"])
			if name := image[strings.LastIndex(image, "/")+1:]; !strings.ContainsAny(name, ":@") ||
				strings.HasSuffix(name, ":latest") {
				wrong = append(wrong, fmt.Sprintf("%s: image %s is not pinned", p.owner.key(), image))
			}
		}
	}
	return wrong
}

func policiesCoverPods(objects []Object) (wrong []string) {
	for _, p := range pods(objects) {
		covered := slices.ContainsFunc(objects, func(o Object) bool {
			types, _ := o.at("spec", "policyTypes").([]any)
			return o.Kind() == "NetworkPolicy" && matches(o.at("spec", "podSelector", "matchLabels"), p.labels) &&
				slices.Contains(types, any("Ingress")) && slices.Contains(types, any("Egress"))
		})
		if !covered {
			wrong = append(wrong, p.owner.key()+": no NetworkPolicy covers its pods in both directions")
		}
	}
	return wrong
}

// scaled returns the Deployments and StatefulSets, as kind/name, that an autoscaler owns.
func scaled(objects []Object) map[string]bool {
	names := map[string]bool{}
	for _, o := range objects {
		if o.Kind() == "HorizontalPodAutoscaler" || o.Kind() == "ScaledObject" {
			names[fmt.Sprint(o.at("spec", "scaleTargetRef", "kind"), "/", o.at("spec", "scaleTargetRef", "name"))] = true
		}
	}
	return names
}

func scalersOwnReplicas(objects []Object) (wrong []string) {
	owned := scaled(objects)
	for _, o := range objects {
		if o.Kind() != "Deployment" && o.Kind() != "StatefulSet" {
			continue
		}
		switch replicas := o.at("spec", "replicas"); {
		case owned[o.key()] && replicas != nil:
			wrong = append(wrong, fmt.Sprintf("%s: sets replicas %v under an autoscaler", o.key(), replicas))
		case !owned[o.key()] && replicas == nil:
			wrong = append(wrong, o.key()+": has neither replicas nor an autoscaler")
		}
	}
	return wrong
}

func targetsExist(objects []Object) (wrong []string) {
	exists := map[string]bool{}
	for _, o := range objects {
		exists[o.key()] = true
	}
	for name := range scaled(objects) {
		if !exists[name] {
			wrong = append(wrong, "an autoscaler targets "+name+", which does not exist")
		}
	}
	for _, o := range objects {
		if o.Kind() == "HTTPRoute" {
			for _, rule := range o.list("spec", "rules") {
				for _, backend := range rule.list("backendRefs") {
					if service := fmt.Sprint("Service/", backend["name"]); !exists[service] {
						wrong = append(wrong, fmt.Sprintf("%s: routes to %s, which does not exist", o.key(), service))
					}
				}
			}
		}
		if o.Kind() != "Ingress" {
			continue
		}
		for _, rule := range o.list("spec", "rules") {
			for _, path := range rule.list("http", "paths") {
				if service := fmt.Sprint("Service/", path.at("backend", "service", "name")); !exists[service] {
					wrong = append(wrong, fmt.Sprintf("%s: routes to %s, which does not exist", o.key(), service))
				}
			}
		}
	}
	return wrong
}

// standalone lists the two resources that Deploy makes outside any component.
var standalone = []string{"pulumi:providers:kubernetes::cluster", "kubernetes:core/v1:Namespace::namespace"}

func everythingDescendsFromAComponent(resources []Resource) (wrong []string) {
	for _, r := range resources {
		if r.Custom && !strings.Contains(r.Parent, "ollama-k8s:index:") && !slices.Contains(standalone, r.URN) {
			wrong = append(wrong, r.URN+": descends from no component")
		}
	}
	return wrong
}

func everythingUsesTheStacksProvider(resources []Resource) (wrong []string) {
	for _, r := range resources {
		if strings.HasPrefix(r.Type, "kubernetes:") && !strings.Contains(r.Provider, "pulumi:providers:kubernetes::cluster") {
			wrong = append(wrong, r.URN+": does not use the stack's own provider")
		}
	}
	return wrong
}
