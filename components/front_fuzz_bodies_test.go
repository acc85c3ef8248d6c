package components

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode/utf16"
)

// Bodies for the fuzz of the front, as clients write them. A body is written as text, never marshalled: how it is spelt
// is the point.

// fuzzMember is a member of an object: its name with the quotes, and its value.
type fuzzMember struct{ name, value string }

// fuzzBody is a body on its way to be text.
type fuzzBody struct {
	path    string
	members []fuzzMember
	// How it is laid out: between members, and behind the colon.
	comma, colon string
	head, tail   string
	// straddle is the member whose name shall stand across the edge of a window; edge is where. None: -1.
	straddle, edge int
	padding        string
	// last changes the text when it is done.
	last []func(text []byte) []byte
}

// fuzzRequest is one request of the fuzz. The seed and the number make it anew.
type fuzzRequest struct {
	number          int
	path, team      string
	transport       string
	contentEncoding string
	body            []byte
	// honest bodies must be served, with the model that they ask for.
	honest bool
	model  string
	chunk  int // the largest piece that a body without a length is sent in
}

// fuzzer makes bodies.
type fuzzer struct {
	*rand.Rand
	// only these changes are made to a hostile body. Default: all.
	only []func(*fuzzer, *fuzzBody)
}

var (
	generatingPaths = []string{
		"/api/generate", "/api/chat", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages",
	}
	embeddingPaths = []string{"/api/embed", "/api/embeddings", "/v1/embeddings"}

	// judgedNames are the members that HAProxy or Ollama act on.
	judgedNames = strings.Fields(`model model model options options keep_alive shift stream format truncate
		max_tokens max_completion_tokens max_output_tokens response_format output_format text`)
	judgedOptions = strings.Fields(`num_ctx num_gpu num_batch num_thread main_gpu use_mmap draft_num_predict
		num_predict num_predict`)
	limitNames = strings.Fields("max_tokens max_completion_tokens max_output_tokens num_predict")
	limitOf    = map[string]string{
		"/api/generate": "num_predict", "/api/chat": "num_predict", "/v1/chat/completions": "max_tokens",
		"/v1/completions": "max_tokens",
		"/v1/responses":   "max_output_tokens", "/v1/messages": "max_tokens",
	}

	fuzzModels = []string{"tiny", "org/big:70b", "tiny-reviewer", "embed", "tiny:latest", "embed:latest"}
	transports = []string{"h1", "h1", "h1 chunked", "h1 chunked", "h2", "h2 without length"}
)

func pick[T any](f *fuzzer, of []T) T { return of[f.IntN(len(of))] }

// chance is true in one of n cases.
func (f *fuzzer) chance(n int) bool { return f.IntN(n) == 0 }

// request is the next one: three of ten are honest.
func (f *fuzzer) request(number int) fuzzRequest {
	r := fuzzRequest{number: number, team: "ide", path: pick(f, generatingPaths), transport: pick(f, transports)}
	if f.chance(4) {
		r.path = pick(f, embeddingPaths)
	}
	r.model = pick(f, fuzzModels)
	if f.chance(3) {
		r.team, r.model = "batch", pick(f, []string{"tiny", "tiny:latest"})
	}
	r.chunk = pick(f, []int{3, 40, 4096, 70000})
	body := f.honest(r.path, r.model)
	if r.honest = f.only == nil && f.IntN(10) < 3; r.honest {
		r.body = body.text()
		return r
	}
	changes := f.only
	if changes == nil {
		changes = hostileChanges
	}
	for range pick(f, []int{1, 1, 1, 2, 3}) {
		pick(f, changes)(f, body)
	}
	r.body = body.text()
	if f.only == nil && f.chance(40) {
		r.body = f.noObject(r.body)
		if bytes.HasPrefix(r.body, []byte(zstdMagic)) {
			r.contentEncoding = "zstd"
		}
	}
	return r
}

// text lays the body out.
func (b *fuzzBody) text() []byte {
	members := b.members
	if b.straddle >= 0 && b.straddle < len(members) {
		at := len(b.head) + len(`{"p":"",`) + len(b.colon) + len(b.comma)
		for _, m := range members[:b.straddle] {
			at += len(m.name) + 1 + len(b.colon) + len(m.value) + 1 + len(b.comma)
		}
		if missing := b.edge - at; missing >= 0 {
			padding := strings.Repeat(b.padding, missing/len(b.padding)) + strings.Repeat("x", missing%len(b.padding))
			members = append([]fuzzMember{{`"p"`, `"` + padding + `"`}}, members...)
		}
	}
	var text bytes.Buffer
	text.WriteString(b.head + "{")
	for i, m := range members {
		if i > 0 {
			text.WriteString("," + b.comma)
		}
		text.WriteString(m.name + ":" + b.colon + m.value)
	}
	text.WriteString("}" + b.tail)
	out := text.Bytes()
	for _, change := range b.last {
		out = change(out)
	}
	return out
}

// honest is a body that a client could send: the members that the path must have, and some that it may have.
func (f *fuzzer) honest(path, model string) *fuzzBody {
	b := &fuzzBody{path: path, straddle: -1, padding: "x"}
	add := func(name, value string) { b.members = append(b.members, fuzzMember{`"` + name + `"`, value}) }
	may := func(n int, name string, value func() string) {
		if f.chance(n) {
			add(name, value())
		}
	}
	tokens := func() string { return fmt.Sprint(1 + f.IntN(fuzzTokens)) }
	number := func() string { return pick(f, []string{"0", "1", "0.7", "1e-3", "2.5E+0", "-1"}) }
	boolean := func() string { return pick(f, []string{"true", "false"}) }
	switch path {
	case "/api/generate", "/v1/completions":
		add("prompt", f.quote(f.words()))
		may(4, "suffix", func() string { return f.quote(f.words()) })
	case "/api/chat", "/v1/chat/completions":
		add("messages", f.messages())
		may(4, "tools", f.tools)
	case "/v1/messages":
		add("messages", f.messages())
		add("max_tokens", tokens())
		may(4, "system", func() string { return f.quote(f.words()) })
	case "/v1/responses":
		add("input", pick(f, []func() string{func() string { return f.quote(f.words()) }, f.messages})())
		may(4, "instructions", func() string { return f.quote(f.words()) })
		may(3, "max_output_tokens", tokens)
		may(6, "text", func() string {
			return `{"format":{"type":"json_schema","name":"a","strict":true,"schema":` + f.schema() + `}}`
		})
	case "/api/embeddings":
		add("prompt", f.quote(f.words()))
	default:
		add("input", pick(f, []func() string{
			func() string { return f.quote(f.words()) },
			func() string { return "[" + f.quote(f.words()) + "," + f.quote(f.words()) + "]" },
		})())
	}
	switch path {
	case "/v1/chat/completions":
		may(3, "max_tokens", tokens)
		may(5, "max_completion_tokens", tokens)
		may(6, "response_format", func() string {
			return `{"type":"json_schema","json_schema":{"name":"a","strict":true,"schema":` + f.schema() + `}}`
		})
		may(4, "stream_options", func() string { return `{"include_usage":true}` })
		may(6, "metadata", func() string { return `{"model":"org/big:70b","options":{"num_ctx":1},"keep_alive":0}` })
		may(6, "store", boolean)
		may(6, "reasoning_effort", func() string { return `"low"` })
	case "/v1/completions":
		may(3, "max_tokens", tokens)
	case "/v1/embeddings":
		may(3, "encoding_format", func() string { return pick(f, []string{`"float"`, `"base64"`}) })
	case "/api/generate", "/api/chat":
		may(2, "options", func() string { return f.honestOptions(model) })
		may(6, "format", func() string { return pick(f, []string{`"json"`, f.schema(), `""`, "null"}) })
		may(6, "think", boolean)
	case "/api/embed":
		may(5, "truncate", boolean)
	}
	if !slices.Contains(embeddingPaths, path) {
		may(2, "stream", boolean)
	}
	if strings.HasPrefix(path, "/v1/") && !slices.Contains(embeddingPaths, path) {
		may(3, "temperature", number)
	}
	may(8, "user", func() string { return f.quote(f.words()) })
	may(10, "x-extra", func() string { return `{"model":["org/big:70b",{"model":1}],"options":null,"\"":"}"}` })
	add("model", `"`+strings.ReplaceAll(model, "/", pick(f, []string{"/", "/", `\/`}))+`"`)
	f.Shuffle(len(b.members), func(i, j int) { b.members[i], b.members[j] = b.members[j], b.members[i] })

	switch f.IntN(3) { // JavaScript, Go; Python; pretty
	case 1:
		b.comma, b.colon = " ", " "
	case 2:
		b.comma, b.colon, b.tail = pick(f, []string{"\n  ", "\r\n\t"}), " ", pick(f, []string{"\n", "\r\n", "", "  \n"})
	}
	if f.chance(25) { // a long one
		b.straddle, b.edge = f.IntN(len(b.members)), f.edge()
	}
	return b
}

func (f *fuzzer) honestOptions(model string) string {
	all := []string{`"temperature":0.1`, `"top_k":40`, `"seed":-1`, `"stop":["model","}"]`, `"num_keep":4`}
	if f.chance(2) {
		all = append(all, fmt.Sprintf(`"num_predict":%d`, 1+f.IntN(fuzzTokens)))
	}
	if f.chance(2) && strings.TrimSuffix(model, ":latest") == "tiny" {
		all = append(all, `"num_ctx":8192`)
	}
	f.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return "{" + strings.Join(all[:f.IntN(len(all)+1)], pick(f, []string{",", ", "})) + "}"
}

func (f *fuzzer) messages() string {
	all := []string{}
	for range 1 + f.IntN(3) {
		role := pick(f, []string{"user", "assistant", "user"})
		all = append(all, fmt.Sprintf(`{"role":%q,"content":%s}`, role, f.quote(f.words())))
	}
	return "[" + strings.Join(all, ",") + "]"
}

// tools have parameters with the names that matter at the top.
func (f *fuzzer) tools() string {
	function := `{"name":"ask","description":` + f.quote(f.words()) + `,"parameters":` + f.schema() + `}`
	return `[{"type":"function","function":` + function + `}]`
}

func (f *fuzzer) schema() string {
	return `{"type":"object","required":["model"],"properties":{"model":{"type":"string","description":"which"},` +
		`"options":{"type":"object","description":"{\"num_ctx\":1}"},"keep_alive":{"type":"string"},` +
		`"stream":{"type":"boolean"}}}`
}

var fuzzTexts = []string{
	"Why is the sky blue?", `{"model":"org/big:70b"}`, `","model":"org/big:70b","x":"`, `C:\dir\model\`, "\\\\\\", "\"",
	"a\nb\tc\r",
	"żółć 日本語 🦙", "keep_alive: 0, num_ctx, num_gpu",
	"K ſ \u2028", "<b>&amp;</b>", "}}}]]]", "{{{[[[", "\u007f\u0001",
	"/* \" */",
}

func (f *fuzzer) words() string {
	text := ""
	for range f.IntN(4) {
		text += pick(f, fuzzTexts)
	}
	return text
}

// quote writes a string as one of the serialisers does: Go, JavaScript, Python, PHP.
func (f *fuzzer) quote(text string) string {
	var plain bytes.Buffer
	lines := json.NewEncoder(&plain)
	lines.SetEscapeHTML(f.chance(2))
	if err := lines.Encode(text); err != nil {
		panic(err) // no string is refused
	}
	quoted := strings.TrimSuffix(plain.String(), "\n")
	switch f.IntN(4) {
	case 0:
		return strings.ReplaceAll(quoted, "/", `\/`)
	case 1:
		var ascii strings.Builder
		for _, char := range quoted {
			switch {
			case char < 0x80:
				ascii.WriteRune(char)
			case char > 0xFFFF:
				high, low := utf16.EncodeRune(char)
				fmt.Fprintf(&ascii, `\u%04x\u%04x`, high, low)
			default:
				fmt.Fprintf(&ascii, `\u%04x`, char)
			}
		}
		return ascii.String()
	}
	return quoted
}

// edge is a place near the end of one of the pieces in which HAProxy, or Lua, has a body.
func (f *fuzzer) edge() int {
	return pick(f, []int{65536, 65536, 65536, 2 * 65536, 3 * 65536, 16384, 2 * 16384, 4 * 16384}) - 24 + f.IntN(30)
}
