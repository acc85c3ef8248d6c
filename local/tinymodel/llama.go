package tinymodel

import (
	"fmt"
	"math"
)

// Llama returns the GGUF file of a model of the llama architecture that says [Sentence] and ends, or never ends if
// Endless is set. Held to a JSON schema, it answers with valid JSON of "ok", 42 and true. The default shape takes 1.7
// MB. Its chat format is ChatML (<|im_start|>, <|im_end|>). The error names all invalid options.
func Llama(options Options) ([]byte, error) {
	if options.Heads == 0 && options.KVHeads == 0 {
		options.Heads, options.KVHeads = 10, 2
	}
	o := options.withDefaults(10, 2048)
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("llama model: %w", err)
	}
	v := newTalkerVocabulary()
	// Each token needs a place of its own in a one-hot embedding.
	headWidth := headWidthFor(len(v.tokens), o.Heads)
	width := headWidth * o.Heads

	m := newModel("llama", "tiny", o.Type)
	m.set("llama.block_count", o.Layers)
	m.set("llama.context_length", o.Context)
	m.set("llama.embedding_length", width)
	m.set("llama.feed_forward_length", o.FeedForward)
	m.set("llama.attention.head_count", o.Heads)
	m.set("llama.attention.head_count_kv", o.KVHeads)
	m.set("llama.attention.layer_norm_rms_epsilon", float32(1e-5))
	m.set("llama.rope.dimension_count", headWidth)
	m.set("llama.vocab_size", len(v.tokens))
	m.set("tokenizer.ggml.model", "gpt2")
	m.set("tokenizer.ggml.pre", "default")
	m.set("tokenizer.ggml.tokens", v.tokens)
	m.set("tokenizer.ggml.token_type", v.types)
	m.set("tokenizer.ggml.merges", []string{"o k"})
	m.set("tokenizer.ggml.bos_token_id", v.endOfText)
	m.set("tokenizer.ggml.eos_token_id", v.endOfTurn)
	m.set("tokenizer.ggml.add_bos_token", false)

	m.matrix("token_embd.weight", oneHot(len(v.tokens), width), width, len(v.tokens))
	m.exact("output_norm.weight", constant(width, 1), width)
	m.matrix("output.weight", nextTokenWeights(v, width, o.Endless), width, len(v.tokens))

	n := newNoise(o.Seed)
	// All blocks together add far less than the 1 of a token's own embedding.
	const faint = 0.001
	whisper := faint / math.Sqrt(float64(o.Layers))
	kvWidth := headWidth * o.KVHeads
	for layer := range o.Layers {
		block := fmt.Sprintf("blk.%d.", layer)
		m.exact(block+"attn_norm.weight", constant(width, 1), width)
		m.matrix(block+"attn_q.weight", n.matrix(width, width, 1), width, width)
		m.matrix(block+"attn_k.weight", n.matrix(width, kvWidth, 1), width, kvWidth)
		m.matrix(block+"attn_v.weight", n.matrix(width, kvWidth, 1), width, kvWidth)
		m.matrix(block+"attn_output.weight", n.matrix(width, width, whisper), width, width)
		m.exact(block+"ffn_norm.weight", constant(width, 1), width)
		m.matrix(block+"ffn_gate.weight", n.matrix(width, o.FeedForward, 1), width, o.FeedForward)
		m.matrix(block+"ffn_up.weight", n.matrix(width, o.FeedForward, 1), width, o.FeedForward)
		m.matrix(block+"ffn_down.weight", n.matrix(o.FeedForward, width, whisper), o.FeedForward, width)
	}
	return m.bytes()
}

// headWidthFor returns the smallest width of a head that gives all tokens a place in the heads together. It is a
// multiple of 32, the size of the blocks in which ggml computes.
func headWidthFor(tokens, heads int) int {
	const block = 32
	perHead := (tokens + heads - 1) / heads
	return (perHead + block - 1) / block * block
}

// nextTokenWeights returns output.weight: a row for each next token, a column for each previous one.
func nextTokenWeights(v *talkerVocabulary, width int, endless bool) []float32 {
	weights := make([]float32, len(v.tokens)*width)
	// The last norm turns the 1 of a one-hot embedding into √width.
	gain := float32(math.Sqrt(float64(width)))
	for previous, choices := range nextTokenTable(v, endless) {
		for _, c := range choices {
			weights[c.next*width+previous] = c.logit / gain
		}
	}
	return weights
}
