package modelfile

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"ollama-k8s/internal/nearest"
)

type kind string

const (
	integer kind = "a whole number"
	float   kind = "a number"
	boolean kind = "true or false"
	words   kind = "text"
	retired kind = "any value"
)

// parameters are the parameters of Ollama 0.17. It warns about retired ones and continues.
var parameters = map[string]kind{
	"num_ctx": integer, "num_batch": integer, "num_gpu": integer, "main_gpu": integer, "use_mmap": boolean,
	"num_thread": integer,
	"num_keep":   integer, "seed": integer, "num_predict": integer, "top_k": integer, "top_p": float, "min_p": float,
	"typical_p":     float,
	"repeat_last_n": integer, "temperature": float, "repeat_penalty": float, "presence_penalty": float,
	"frequency_penalty": float, "stop": words,
	"penalize_newline": retired, "low_vram": retired, "f16_kv": retired, "logits_all": retired, "vocab_only": retired,
	"use_mlock": retired,
	"mirostat":  retired, "mirostat_tau": retired, "mirostat_eta": retired,
}

// checkParameter returns what is wrong with a parameter and the remedy, or "". bare means that the line ends after the
// name.
func checkParameter(key, value string, bare bool) string {
	wanted, known := parameters[key]
	switch {
	case key == "":
		return "is followed by two spaces or nothing: write PARAMETER NAME VALUE with single spaces"
	case !known:
		return key + ": unknown parameter: " + suggestion(key)
	case bare || value == "" && wanted != retired:
		return key + ": has no value: add " + string(wanted) + " on the same line"
	case !wanted.fits(value):
		problem := fmt.Sprintf("%s: %q is not allowed: use %s", key, value, wanted)
		if strings.Contains(value, "#") {
			// Ollama reads the comment as part of the value.
			problem += ", and put comments on their own line"
		}
		return problem
	}
	if n, err := strconv.Atoi(value); key == "num_ctx" && err == nil && n < 1 {
		return fmt.Sprintf("num_ctx: %d is not allowed: use a number of tokens above 0, e.g. 8192", n)
	}
	return ""
}

func (k kind) fits(value string) bool {
	var err error
	switch k {
	case integer:
		_, err = strconv.ParseInt(value, 10, 64)
	case boolean:
		_, err = strconv.ParseBool(value)
	case float:
		var number float64
		number, err = strconv.ParseFloat(value, 32)
		// Ollama sends the value to the server as JSON, which has neither NaN nor infinity.
		return err == nil && !math.IsNaN(number) && !math.IsInf(number, 0)
	}
	return err == nil
}

func suggestion(key string) string {
	var known []string
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		if parameters[name] != retired {
			known = append(known, name)
		}
	}
	if near := nearest.To(strings.ToLower(key), known); near != "" {
		return "did you mean " + near + "?"
	}
	return "use one of " + strings.Join(known, ", ")
}
