// Package registry is a model registry that `ollama pull` understands, serving models that it makes itself.
//
// It stands in for a company's private registry on machines that reach none: one static binary, no data, pull only. A
// [Catalogue] holds models in memory; [TinyModels] fills one from the generator; [Handler] serves the part of the OCI
// distribution protocol that Ollama uses.
//
// Two habits of Ollama shape it. Its pull fails unless the registry redirects a blob to another hostname: Handler
// redirects to the address on which the request arrived. And plain HTTP needs `ollama pull --insecure`.
package registry
