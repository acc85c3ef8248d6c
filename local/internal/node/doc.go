// Package node runs a small but real Kubernetes cluster on this machine: etcd, the control plane, two kubelets with
// their containerds, kube-proxy and a pod network. All of them are ordinary processes, without a virtual machine, a
// container engine or a registry.
//
// The cluster has two nodes. gpu1 advertises nvidia.com/gpu and has the taint that GPU nodes have in production; node1
// is a plain node. So a pod must ask for a GPU and tolerate the taint, as in production.
//
// # What separates it from the machine
//
// The cluster lives in one network namespace and in one cgroup subtree (in each hierarchy). Each node has a mount
// namespace of its own, because the kubelet and containerd have paths that no flag changes. A sleeping process, the
// holder, keeps each node's namespaces alive. A veth pair and two routes let the machine reach the API server, Services
// and pods.
//
// # What makes it repairable
//
// [Up] compares what should be with what is, and changes only the difference: it starts a dead part, restarts a part
// whose configuration changed, and rebuilds the namespaces, with the data kept, when a holder is gone. It recognises
// its processes by pid, start time and boot id together, so it neither trusts nor kills another process that got the
// same pid. The cgroup is the second witness: every process in it is ours, recorded or not.
//
// [Down] kills the processes in the cgroup and removes the rest. [Leftovers] lists what remains, if anything.
package node
