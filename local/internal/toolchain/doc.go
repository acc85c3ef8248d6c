// Package toolchain builds the programs of the embedded cluster on a machine that reaches only the Go module proxy and
// Debian's packages. It builds most of them from Go modules, each pinned by a module of its own under local/tools. A
// few come from Debian packages that are newer than the machine's.
//
// Each finished tool is a folder in the cache, named by its version and by a key over everything that went into it:
//
//	$XDG_CACHE_HOME/ollama-k8s/tools/kubernetes-1.35.4-0f3ad7a9c2b1/kubernetes
//
// A complete folder gets its name in one rename. So every folder there is usable. An interrupted build leaves nothing
// behind except in Go's own build cache, from which the next run continues. Folders of earlier versions stay until
// somebody removes them. You can safely remove all of them.
//
// To move a tool to another version, run go get and go mod tidy in its module, and change the version in the table in
// tool.go.
package toolchain
