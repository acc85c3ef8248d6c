// Package registry is a model registry that `ollama pull` understands, serving models that it makes itself.
//
// It stands in for a company's private registry where none may be reached: one static binary, no data, pull only. A
// [Catalogue] holds models in memory; [TinyModels] fills one from the generator; [Handler] speaks as much of the OCI
// distribution protocol as Ollama asks for.
//
// Two habits of Ollama shape it. A blob must be answered by a redirect to another hostname, or the pull fails: Handler
// redirects to the address on which the request came in. And plain HTTP needs `ollama pull --insecure`.
package registry
