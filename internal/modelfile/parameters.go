package modelfile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

type kind string

const (
	integer kind = "a whole number"
	float   kind = "a number"
	boolean kind = "true or false"
	words   kind = "text"
	retired kind = "retired"
)

// parameters are those that Ollama 0.17 takes; it warns of the retired ones and goes on.
var parameters = map[string]kind{
	"num_ctx": integer, "num_batch": integer, "num_gpu": integer, "main_gpu": integer, "use_mmap": boolean, "num_thread": integer,
	"num_keep": integer, "seed": integer, "num_predict": integer, "top_k": integer, "top_p": float, "min_p": float, "typical_p": float,
	"repeat_last_n": integer, "temperature": float, "repeat_penalty": float, "presence_penalty": float, "frequency_penalty": float, "stop": words,
	"penalize_newline": retired, "low_vram": retired, "f16_kv": retired, "logits_all": retired, "vocab_only": retired, "use_mlock": retired,
	"mirostat": retired, "mirostat_tau": retired, "mirostat_eta": retired,
}

// checkParameter says what is wrong with a parameter, and what to do; nothing where nothing is.
func checkParameter(key, value string) string {
	wanted, known := parameters[key]
	switch {
	case key == "":
		return "is followed by two spaces or nothing: write PARAMETER, one space, its name, one space, its value"
	case !known:
		return fmt.Sprintf("%s: unknown parameter: use one of %s", key, strings.Join(names(), ", "))
	case value == "" && wanted != retired:
		return key + ": has no value: give it " + string(wanted)
	}
	var err error
	switch wanted {
	case integer:
		_, err = strconv.ParseInt(value, 10, 64)
	case float:
		_, err = strconv.ParseFloat(value, 32)
	case boolean:
		_, err = strconv.ParseBool(value)
	}
	switch number, _, comment := strings.Cut(value, "#"); {
	case err != nil && comment:
		return fmt.Sprintf("%s: the value is %q, the comment included: put the comment on a line of its own and leave %q", key, value, strings.TrimSpace(number))
	case err != nil:
		return fmt.Sprintf("%s: %q is not allowed: give it %s", key, value, wanted)
	}
	if n, err := strconv.Atoi(value); key == "num_ctx" && err == nil && n < 1 {
		return fmt.Sprintf("num_ctx: %d is not allowed: give it the tokens of context, e.g. 8192", n)
	}
	return ""
}

func names() (known []string) {
	for name, kind := range parameters {
		if kind != retired {
			known = append(known, name)
		}
	}
	slices.Sort(known)
	return known
}
