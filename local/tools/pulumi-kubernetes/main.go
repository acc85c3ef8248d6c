// Command pulumi-kubernetes is Pulumi's own Kubernetes plugin. Only its main
// function is ours: the published module lacks the two files that its own main
// embeds, which its release process derives from two others that it does have.
// The build puts those in the place of the files that this one embeds.
package main

import (
	"bytes"
	_ "embed"

	"github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/provider"
)

// version is the release that the module's commit became. It is what the
// engine compares with the version that a program's SDK asks for.
const version = "4.24.0"

//go:embed schema.json
var schema []byte

//go:embed terraform-mapping.json
var terraformMapping []byte

func main() {
	name := []byte(`"name": "kubernetes",`)
	versioned := bytes.Replace(schema, name, append(name, `"version": "`+version+`",`...), 1)
	provider.Serve("kubernetes", version, versioned, terraformMapping)
}
