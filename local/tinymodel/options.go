package tinymodel

import (
	"errors"
	"fmt"
)

// Type is how the weights are stored.
type Type int

const (
	// F16 takes two bytes a weight.
	F16 Type = iota
	// F32 takes four bytes, and is a quarter faster if Ollama is built without a CPU's half-precision instructions.
	F32
)

// Options is the shape of a model. The zero value of a field means its default, so Options{} is a good small model.
type Options struct {
	Layers int // transformer blocks; default 2
	Heads  int // attention heads; default 10 for Llama, 4 for Bert
	// KVHeads is the number of heads that keep keys and values, which make up the KV cache. It must divide Heads. The
	// default is Heads, but 2 for a Llama that sets neither.
	KVHeads     int
	FeedForward int // width of the feed-forward layer, a multiple of 32; default 64
	Context     int // tokens that the model claims to be trained for; default 2048 for Llama, 512 for Bert

	Seed uint64 // of the noise
	// Endless makes a Llama begin the sentence again instead of ending. Ollama itself stops at 10 x num_ctx tokens.
	Endless bool
	Type    Type
}

func (o Options) withDefaults(heads, context int) Options {
	for _, f := range []struct {
		field        *int
		defaultValue int
	}{
		{&o.Layers, 2},
		{&o.Heads, heads},
		{&o.FeedForward, 64},
		{&o.Context, context},
	} {
		if *f.field == 0 {
			*f.field = f.defaultValue
		}
	}
	if o.KVHeads == 0 {
		o.KVHeads = o.Heads
	}
	return o
}

// validate reports every problem at once.
func (o Options) validate() error {
	var problems []error
	for _, f := range []struct {
		name  string
		value int
	}{
		{"Layers", o.Layers},
		{"Heads", o.Heads},
		{"KVHeads", o.KVHeads},
		{"FeedForward", o.FeedForward},
		{"Context", o.Context},
	} {
		if f.value < 0 {
			problems = append(problems, fmt.Errorf("option %s is %d: give a positive number, or 0 for the default",
				f.name, f.value))
		}
	}
	if o.Heads > 0 && o.KVHeads > 0 && o.Heads%o.KVHeads != 0 {
		problems = append(problems, fmt.Errorf("option KVHeads is %d: each serves an equal share of Heads, so give "+
			"a divisor of %d", o.KVHeads, o.Heads))
	}
	// ggml computes in blocks of 32 weights.
	if o.FeedForward%32 != 0 {
		problems = append(problems, fmt.Errorf("option FeedForward is %d: give a multiple of 32", o.FeedForward))
	}
	if o.Type != F16 && o.Type != F32 {
		problems = append(problems, fmt.Errorf("option Type is %d: give F16 or F32", o.Type))
	}
	return errors.Join(problems...)
}
