// Package toolchain makes the programs that the embedded cluster consists of,
// on a machine that reaches nothing but the Go module proxy and Debian's
// packages. Most are built from Go modules, each pinned by a module of its own
// under local/tools; a few come out of Debian packages newer than the machine's.
//
// Each finished tool is a folder in the cache, named by its version and by a
// key over everything that went into it:
//
//	$XDG_CACHE_HOME/ollama-k8s/tools/kubernetes-1.35.4-0f3ad7a9c2b1/kubernetes
//
// A folder appears there in one rename when it is complete. So what is there
// is usable, an interrupted build leaves nothing behind but what Go's own
// build cache keeps, and the next run goes on from that. Folders of earlier
// versions stay until somebody removes them; removing all is safe.
//
// To move a tool to another version, run go get and go mod tidy in its module,
// and change the version in the table in tool.go.
package toolchain
