package vram_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"ollama-k8s/internal/vram"
)

func TestMaxLoaded(t *testing.T) {
	for name, test := range map[string]struct {
		vramGiB float64
		models  []float64
		want    int
		err     string
	}{
		"a pool of unknown memory keeps one model":                 {0, []float64{10, 10}, 1, ""},
		"a model of unknown size is kept alone":                    {80, []float64{10, 0}, 1, ""},
		"two 70B models never share 80 GiB":                        {80, []float64{51, 51}, 1, ""},
		"the second model may take 80 percent of what is left":     {80, []float64{30, 40}, 2, ""},
		"the second model may not take more than 80 percent of it": {80, []float64{33, 40}, 1, ""},
		"three small models share a large GPU":                     {80, []float64{10, 10, 10}, 3, ""},
		"a model larger than the pool is refused by name":          {48, []float64{51}, 0, "m0 needs 51.0 GiB, the pool's pods have 48.0 GiB"},
		"an exact fit is one model":                                {51, []float64{51}, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			models := []vram.Model{}
			for i, size := range test.models {
				models = append(models, vram.Model{Name: "m" + string(rune('0'+i)), GiB: size})
			}
			got, err := vram.MaxLoaded(test.vramGiB, models)
			if test.err != "" {
				assert.EqualError(t, err, test.err)
				return
			}
			assert.NoError(t, err)
			assert.Equal(t, test.want, got)
		})
	}
}
