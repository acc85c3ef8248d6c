// Package node runs a small but real Kubernetes cluster on this machine:
// etcd, the control plane, two kubelets with their containerds, kube-proxy
// and a pod network, all from ordinary processes and without a virtual
// machine, a container engine or a registry.
//
// The cluster has two nodes. gpu1 advertises nvidia.com/gpu and carries the
// taint that GPU nodes carry in production; node1 is a plain node. So what
// belongs on a GPU must ask for it and tolerate it, as in the real world.
//
// # What keeps it apart from the machine
//
// All of it lives in one network namespace and in one cgroup subtree (in each
// hierarchy); each node has a mount namespace of its own, since the kubelet
// and containerd have paths that no flag changes. A process that only sleeps,
// the holder, keeps each node's namespaces alive. A veth pair and two routes
// let the machine reach the API server, Services and pods.
//
// # What makes it repairable
//
// [Up] compares what should be with what is, and changes only the difference:
// it starts a dead part, restarts one whose configuration changed, and rebuilds
// the namespaces, on the kept data, when a holder is gone. A process counts as
// ours only by its pid together with its start time and the boot's id, so a pid
// that the kernel gave to someone else is neither trusted nor killed. The
// cgroup is the second witness: whatever is in it is ours, recorded or not.
//
// [Down] kills what is in the cgroup, and removes the rest; [Leftovers] says
// what, if anything, remains.
package node
