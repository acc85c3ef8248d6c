package tinymodel

import (
	"errors"
	"fmt"
)

// bertWidth is the length of the vectors that a model of [Bert] returns.
const bertWidth = 64

// Bert returns the GGUF file of an embedding model of the bert architecture. Its vectors are normalized and have 64
// numbers. The default shape takes under half a megabyte. The error names all invalid options.
func Bert(options Options) ([]byte, error) {
	o := options.withDefaults(4, 512)
	if err := errors.Join(o.validate(), bertOnly(o)); err != nil {
		return nil, fmt.Errorf("bert model: %w", err)
	}
	v := newEmbedderVocabulary()
	m := newModel("bert", "tiny-embed", o.Type)
	m.set("bert.block_count", o.Layers)
	m.set("bert.context_length", o.Context)
	m.set("bert.embedding_length", bertWidth)
	m.set("bert.feed_forward_length", o.FeedForward)
	m.set("bert.attention.head_count", o.Heads)
	m.set("bert.attention.head_count_kv", o.KVHeads)
	m.set("bert.attention.layer_norm_epsilon", float32(1e-12))
	m.set("bert.attention.causal", false)
	m.set("bert.pooling_type", 1) // the mean over the tokens
	m.set("bert.normalize_embeddings", true)
	m.set("tokenizer.ggml.model", "bert")
	m.set("tokenizer.ggml.tokens", v.tokens)
	m.set("tokenizer.ggml.scores", make([]float32, len(v.tokens)))
	m.set("tokenizer.ggml.token_type", v.types)
	m.set("tokenizer.ggml.token_type_count", 2)
	m.set("tokenizer.ggml.padding_token_id", v.padding)
	m.set("tokenizer.ggml.unknown_token_id", v.unknown)
	m.set("tokenizer.ggml.cls_token_id", v.classify)
	m.set("tokenizer.ggml.seperator_token_id", v.separator) // the format's own spelling
	m.set("tokenizer.ggml.mask_token_id", v.mask)
	m.set("tokenizer.ggml.bos_token_id", v.classify)
	m.set("tokenizer.ggml.eos_token_id", v.separator)

	n := newNoise(o.Seed)
	norm := func(name string) {
		m.exact(name+".weight", constant(bertWidth, 1), bertWidth)
		m.exact(name+".bias", constant(bertWidth, 0), bertWidth)
	}
	linear := func(name string, in, out int, amplitude float64) {
		m.matrix(name+".weight", n.matrix(in, out, amplitude), in, out)
		m.exact(name+".bias", constant(out, 0), out)
	}
	// Texts that share words must have close embeddings: words outweigh positions, and the blocks mix in little.
	m.exact("token_embd.weight", n.uniform(len(v.tokens)*bertWidth, 1.7), bertWidth, len(v.tokens))
	m.exact("token_types.weight", n.uniform(2*bertWidth, 0.1), bertWidth, 2)
	m.exact("position_embd.weight", n.uniform(o.Context*bertWidth, 0.2), bertWidth, o.Context)
	norm("token_embd_norm")
	const mixed = 0.3
	for layer := range o.Layers {
		block := fmt.Sprintf("blk.%d.", layer)
		linear(block+"attn_q", bertWidth, bertWidth, 1)
		linear(block+"attn_k", bertWidth, bertWidth, 1)
		linear(block+"attn_v", bertWidth, bertWidth, 1)
		linear(block+"attn_output", bertWidth, bertWidth, mixed)
		norm(block + "attn_output_norm")
		linear(block+"ffn_up", bertWidth, o.FeedForward, 1)
		linear(block+"ffn_down", o.FeedForward, bertWidth, mixed)
		norm(block + "layer_output_norm")
	}
	return m.bytes()
}

// bertOnly refuses options that [Options] allows and this architecture does not have.
func bertOnly(o Options) error {
	var problems []error
	if o.Heads > 0 && bertWidth%o.Heads != 0 {
		problems = append(problems, fmt.Errorf("option Heads is %d: give a divisor of the width, %d", o.Heads, bertWidth))
	}
	if o.KVHeads != o.Heads {
		problems = append(problems, fmt.Errorf("option KVHeads is %d, but bert has as many as Heads, %d: leave it out",
			o.KVHeads, o.Heads))
	}
	if o.Endless {
		problems = append(problems, errors.New("option Endless is set, but an embedding model says nothing: leave it out"))
	}
	return errors.Join(problems...)
}
