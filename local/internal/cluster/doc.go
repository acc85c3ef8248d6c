// Package cluster brings into a new cluster what every pod depends on: DNS, a default StorageClass, the nvidia
// RuntimeClass and the model registry. The objects are YAML files under manifests/.
package cluster
