package tinymodel

import (
	"math"
	"math/rand/v2"
)

// noise draws weights that carry no meaning. It uses no function whose last bit may differ between processors: the
// digest of a model must be the same on all of them.
type noise struct{ source *rand.PCG }

func newNoise(seed uint64) noise { return noise{rand.NewPCG(seed, 0)} }

// matrix is out x in weights, scaled so that values of about 1 going in come out as values of about amplitude.
func (n noise) matrix(in, out int, amplitude float64) []float32 {
	// A uniform number in ±√3 has a variance of 1, so the sum of "in" of them has a variance of "in".
	return n.uniform(in*out, amplitude*math.Sqrt(3/float64(in)))
}

// uniform returns count values within ±limit.
func (n noise) uniform(count int, limit float64) []float32 {
	values := make([]float32, count)
	for i := range values {
		unit := float64(n.source.Uint64()>>11) / (1 << 53)
		values[i] = float32((2*unit - 1) * limit)
	}
	return values
}

func constant(count int, value float32) []float32 {
	values := make([]float32, count)
	for i := range values {
		values[i] = value
	}
	return values
}

// oneHot returns an embedding for each token, with a 1 in the token's own place and 0 elsewhere.
func oneHot(tokens, width int) []float32 {
	values := make([]float32, tokens*width)
	for token := range tokens {
		values[token*width+token] = 1
	}
	return values
}
