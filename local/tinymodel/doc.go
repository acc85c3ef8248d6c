// Package tinymodel generates language models of a few megabytes that a real Ollama loads, schedules and generates
// from. They let you test everything around a model on a laptop: pulls, queues, limits, streams, memory plans.
//
// The central idea is that the weights are written, not trained. In [Llama] the embedding of a token is one-hot, so the
// output matrix is a table "after this token, that one" that this package fills in: the model recites a fixed sentence
// and, held to a JSON schema, answers with short valid JSON. The attention and feed-forward layers carry noise that is
// too faint to change which token wins, but the whole compute path and the KV cache are in use. [Bert] is random
// throughout, which is enough for embeddings: equal texts have equal vectors, and texts that share words have closer
// ones.
//
// A model is a pure function of its [Options]: the same options give the same bytes, and the same digest, on every
// machine. Another seed gives other bytes, so Ollama keeps that model in a runner of its own.
package tinymodel
