// Package tinymodel generates language models of a few megabytes that a real Ollama loads, schedules and generates from,
// so that everything around a model can be tested on a laptop: pulls, queues, limits, streams, memory plans.
//
// The central idea is that the weights are written, not trained. In [Llama] the embedding of a token is one-hot, and so
// the output matrix is a table "after this token, that one" which is filled in by hand: the model recites a fixed
// sentence and, held to a JSON schema, answers with short valid JSON. Attention and feed-forward layers carry noise too
// faint to change which token wins; the whole compute path and the KV cache are in use all the same. [Bert] is random
// throughout, which is enough for embeddings: equal texts agree, and texts that share words lie closer.
//
// A model is a pure function of its [Options]: the same options give the same bytes on every machine, and thus the same
// digest. Another seed gives other bytes, and thus a model that Ollama keeps in a runner of its own.
package tinymodel
