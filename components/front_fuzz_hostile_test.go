package components

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
)

// Hostile bodies for the fuzz of the front: honest ones with changes.

// Those that stand here more than once are made more often.
var hostileChanges = []func(*fuzzer, *fuzzBody){
	(*fuzzer).duplicate, (*fuzzer).duplicate, (*fuzzer).duplicate, (*fuzzer).second, (*fuzzer).folded, (*fuzzer).respell,
	(*fuzzer).oddValue,
	(*fuzzer).oddModel, (*fuzzer).oddModel, (*fuzzer).oddModel, (*fuzzer).badOption, (*fuzzer).badOption,
	(*fuzzer).badOption, (*fuzzer).badOption,
	(*fuzzer).tokenLimit, (*fuzzer).tokenLimit, (*fuzzer).tokenLimit, (*fuzzer).tokenLimit, (*fuzzer).setAside,
	(*fuzzer).setAside, (*fuzzer).drop,
	(*fuzzer).straddled, (*fuzzer).space, (*fuzzer).space, (*fuzzer).behind, (*fuzzer).behind, (*fuzzer).before,
	(*fuzzer).cutShort, (*fuzzer).flip,
	(*fuzzer).deep, (*fuzzer).many, (*fuzzer).backslashes, (*fuzzer).backslashes,
}

func (f *fuzzer) insert(b *fuzzBody, name, value string) {
	b.members = slices.Insert(b.members, f.IntN(len(b.members)+1), fuzzMember{name, value})
}

// duplicate adds a judged member, mostly one that is there already, or its like.
func (f *fuzzer) duplicate(b *fuzzBody) {
	name := pick(f, judgedNames)
	f.insert(b, f.spell(name), f.valueOf(name))
}

// second adds a second model, of a name that is known.
func (f *fuzzer) second(b *fuzzBody) { f.insert(b, f.spell("model"), `"`+pick(f, fuzzModels)+`"`) }

// folded adds a member that means something only to those who know the Kelvin sign and the long s.
func (f *fuzzer) folded(b *fuzzBody) {
	option := pick(f, judgedOptions)
	m := pick(f, []fuzzMember{
		{"\"\u212Aeep_alive\"", "0"}, {`"\u212aeep_alive"`, `"5m"`}, {"\"\u017Fhift\"", "true"}, {`"\u017Fhift"`, "false"},
		{"\"option\u017F\"", `{"` + option + `":` + f.valueOf(option) + "}"},
	})
	f.insert(b, m.name, m.value)
}

func (f *fuzzer) respell(b *fuzzBody) {
	if len(b.members) == 0 {
		return
	}
	m := &b.members[f.IntN(len(b.members))]
	m.name = f.spell(strings.Trim(m.name, `"`))
}

func (f *fuzzer) oddValue(b *fuzzBody) {
	if len(b.members) == 0 {
		return
	}
	b.members[f.IntN(len(b.members))].value = pick(f, oddValues)
}

var oddValues = []string{
	"null", "0", "-1", "1", "-0", "1.0", "1e3", "1E400", "0x10", "01", "+1", "1.", ".5", "-", "1e",
	"99999999999999999999", "9007199254740993",
	"true", "false", "True", "NaN", "Infinity", "nul", "nullx", `""`, `"0"`, `"5m"`, `"null"`, "[]", "{}", "[[]]",
	`["tiny"]`, `{"model":"org/big:70b"}`,
	`{"num_ctx":1}`, `{"NUM_GPU":0}`, `"tiny"`, `"org/big:70b"`, "", "undefined", "'tiny'", `"a" "b"`, `"a":"b"`, "[}",
	"{]", `[1,]`, `{"a":1,}`, `{"a"}`,
}

func (f *fuzzer) oddModel(b *fuzzBody) {
	for i := range b.members {
		if b.members[i].name == `"model"` {
			b.members[i].value = f.valueOf("model")
		}
	}
}

// badOption adds or changes options.
func (f *fuzzer) badOption(b *fuzzBody) {
	inner := []string{}
	for range 1 + f.IntN(3) {
		name := pick(f, judgedOptions)
		inner = append(inner, f.spell(name)+":"+f.valueOf(name))
	}
	for i := range b.members {
		value := b.members[i].value
		if b.members[i].name == `"options"` && strings.HasPrefix(value, "{") && !f.chance(4) {
			if value != "{}" {
				value = "," + value[1:]
			} else {
				value = "}"
			}
			b.members[i].value = "{" + strings.Join(inner, ",") + value
			return
		}
	}
	f.insert(b, f.spell("options"), "{"+strings.Join(inner, ",")+"}")
}

// tokenLimit sets a limit of the path, or one of another path.
func (f *fuzzer) tokenLimit(b *fuzzBody) {
	name := pick(f, limitNames)
	if own := limitOf[b.path]; own != "" && !f.chance(4) {
		name = own
	}
	if name == "num_predict" {
		f.insert(b, f.spell("options"), "{"+f.spell(name)+":"+f.valueOf(name)+"}")
		return
	}
	for i := range b.members {
		if b.members[i].name == `"`+name+`"` && !f.chance(4) {
			b.members[i].value = f.valueOf(name)
			return
		}
	}
	f.insert(b, f.spell(name), f.valueOf(name))
}

// setAside puts judged names where they mean nothing: nested, or in a name or a string.
func (f *fuzzer) setAside(b *fuzzBody) {
	nested := "{" + f.spell("model") + ":" + f.valueOf("model") + "," + f.spell("options") + `:{"num_gpu":0}}`
	switch f.IntN(4) {
	case 0:
		f.insert(b, `"x"`, nested)
	case 1:
		f.insert(b, `"x"`, "["+nested+","+nested+"]")
	case 2:
		f.insert(b, f.quote(nested), "1")
	default:
		f.insert(b, `"x"`, f.quote(nested))
	}
}

func (f *fuzzer) drop(b *fuzzBody) {
	if len(b.members) > 0 {
		i := f.IntN(len(b.members))
		b.members = slices.Delete(b.members, i, i+1)
	}
}

// straddled pads the body, so that a member stands across the edge of a window.
func (f *fuzzer) straddled(b *fuzzBody) {
	if len(b.members) == 0 || !f.chance(2) { // they take long
		return
	}
	b.straddle, b.edge = f.IntN(len(b.members)), f.edge()
	b.padding = pick(f, []string{"x", `\\`, `\"`, `\u0041`, "{[", "é", `\\\"`})
}

var spaces = []string{" ", "\n", "\t", "\r", " \r\n\t"}

// space puts white space around what is there, or what is none for JSON.
func (f *fuzzer) space(b *fuzzBody) {
	length := pick(f, []int{1, 2, 63, 64, 65, 100, 4090 + f.IntN(12), 4096, 9000, 16380 + f.IntN(10)})
	if f.chance(10) {
		length = 65530 + f.IntN(12)
	}
	run := strings.Repeat(pick(f, spaces), length)[:length]
	if f.chance(10) {
		run = pick(f, []string{"\u00a0", "\v", "\f", "\x00", "\u2028", "\ufeff", "//\n", "/**/"})
	}
	switch f.IntN(5) {
	case 0:
		b.head = run
	case 1:
		b.comma = run
	case 2:
		b.colon = run
	default:
		b.tail = run
	}
	if (len(b.comma)+len(b.colon))*len(b.members) > 300_000 {
		b.comma, b.colon = "", ""
	}
}

// behind the first value something follows.
func (f *fuzzer) behind(b *fuzzBody) {
	model := f.valueOf("model")
	b.tail += pick(f, []string{
		`{"model":` + model + `}`, "\n" + `{"model":` + model + `}`, `{,"model":` + model + `}`, `,"model":` + model + `}`,
		`}`, ` 1`, `]`, `{`, `{}`,
		"{} {}", `"`, `"}`, `"{}"`, `null`, "\x00", "\x00}", "\x1e}", "garbage", "garbage}", "#}",
		` "model":` + model + `}`, `:{}`, `[{}]`, `{"a":1}}`,
		strings.Repeat(" ", 64) + "}", strings.Repeat(" ", 4096) + "{}", strings.Repeat("}", 65),
	})
}

func (f *fuzzer) before(b *fuzzBody) {
	b.head += pick(f, []string{
		"\ufeff", "[", "{}", "{}\n", "null", "1 ", `"x"`, "[]", `{"model":"org/big:70b"}`, "{", "x", "\x00", ")]}',\n",
		"\xff\xfe", ",", ":",
		`{"a":`, `{"model":`, `{"model":"org/big:70b","x":`, `{"model":"org/big:70b",`,
	})
}

func (f *fuzzer) cutShort(b *fuzzBody) {
	share := f.Float64()
	b.last = append(b.last, func(text []byte) []byte { return text[:int(share*float64(len(text)))] })
}

// flip changes a few bytes to ones that mean something.
func (f *fuzzer) flip(b *fuzzBody) {
	const alphabet = "{}[]\",:\\ \x00\xffu0/nkKsS\x80e.-\n"
	type change struct {
		at   float64
		kind int
		char byte
	}
	changes := make([]change, 1+f.IntN(3))
	for i := range changes {
		changes[i] = change{f.Float64(), f.IntN(3), alphabet[f.IntN(len(alphabet))]}
	}
	b.last = append(b.last, func(text []byte) []byte {
		for _, c := range changes {
			if len(text) == 0 {
				return text
			}
			switch at := int(c.at * float64(len(text))); c.kind {
			case 0:
				text[at] = c.char
			case 1:
				text = slices.Insert(text, at, c.char)
			default:
				text = slices.Delete(text, at, at+1)
			}
		}
		return text
	})
}

// deep nests up to and over what encoding/json allows.
func (f *fuzzer) deep(b *fuzzBody) {
	depth := pick(f, []int{100, 100, 100, 500, 9997, 9998, 9999, 10000, 10001, 10002})
	open, shut := "[", "]"
	if f.chance(2) {
		open, shut = `{"model":`, "}"
	}
	inside := pick(f, []string{"1", `"]}"`, "null"})
	if f.chance(5) {
		shut = pick(f, []string{"]", "}"})
	}
	f.insert(b, `"x"`, strings.Repeat(open, depth)+inside+strings.Repeat(shut, depth-f.IntN(20)/19))
}

// many members, up to and over what the reader takes.
func (f *fuzzer) many(b *fuzzBody) {
	if !f.chance(4) { // they take long
		return
	}
	name := pick(f, []string{`"a"`, `""`, `"x-model"`, `"mode\u006"`, `"\u006dodels"`, `"options "`})
	count := pick(f, []int{10, 300, 2000, 4080, 4090, 4096, 4100})
	at := f.IntN(len(b.members) + 1)
	one := fuzzMember{name, pick(f, []string{"1", `"}"`, "{}", "null"})}
	b.members = slices.Insert(b.members, at, slices.Repeat([]fuzzMember{one}, count)...)
}

// backslashes are many, odd or even, before a quote: the string may end there, and then other members follow.
func (f *fuzzer) backslashes(b *fuzzBody) {
	run := strings.Repeat(`\`, f.IntN(5)+pick(f, []int{0, 0, 62, 64, 126, 1000}))
	f.insert(b, `"x"`, `"`+run+`","model":`+f.valueOf("model")+`,"y":"`+pick(f, []string{``, run, `\\`})+`"`)
	if f.chance(3) {
		b.straddle, b.edge, b.padding = f.IntN(len(b.members)), f.edge(), pick(f, []string{`\\`, `\"`, "x"})
	}
}

// valueOf makes a value for a judged name: one that it could have, or an odd one.
func (f *fuzzer) valueOf(name string) string {
	if f.chance(4) {
		return pick(f, oddValues)
	}
	switch name {
	case "model":
		if f.chance(2) {
			return `"` + pick(f, fuzzModels) + `"`
		}
		return pick(f, []string{
			`"tin\u0079"`, `"t\u0069ny"`, `"tiny\u0000x"`, `"tiny\u0000"`, `"\u0000tiny"`, `" tiny"`, `"tiny "`, `"TINY"`,
			`"Tiny"`, `"tiny:LATEST"`,
			`"tiny:latest:latest"`, `"registry.ollama.ai/library/tiny:latest"`, `"library/tiny"`, `"org\/big:70b"`,
			`"org\\/big:70b"`, `"ORG/big:70b"`,
			`"tiny\ud800"`, `"\ud83e\udd99tiny"`, "\"tiny\xff\"", "\"tiny\x00\"", "\"tiny\n\"", `"tiny\n"`, `"tiny\/"`,
			`"ti\ny"`, `"tiny\u002fx"`, `"tiny\x41"`,
			`"` + strings.Repeat("x", 600) + `"`, `"` + strings.Repeat("x", 70000) + `"`,
			`"tiny` + strings.Repeat(" ", 600) + `"`, `"gpt-4\"o"`, `"%00tiny"`, `"tiny%0a"`,
			`"org/big\u003a70b"`, `"org\u002Fbig:70b"`, "\"tiny\u0301\"", "\"tıny\"", `"tiny:local"`, `"tiny:cloud"`,
			`"http://x/tiny"`, `"ſ"`, `"tiny,org/big:70b"`,
		})
	case "options":
		option := pick(f, judgedOptions)
		return "{" + f.spell(option) + ":" + f.valueOf(option) + "}"
	case "num_ctx":
		return pick(f, []string{"8192", "8192.0", "8.192e3", "4096", "0", "-1", `"8192"`, "8193"})
	case "keep_alive":
		return pick(f, []string{"0", "-1", `"5m"`, `"0"`, "null", "3600", "1.5", `"-1s"`})
	case "max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict":
		return pick(f, []string{
			"0", "-1", "-2", "null", "1", fmt.Sprint(fuzzTokens), fmt.Sprint(fuzzTokens + 1), fmt.Sprint(2 * fuzzTokens),
			"1000000", "2147483648", "4294967297",
			"9223372036854775807", "9223372036854775808", "1.5", "0.5", "1e2", "1e9", "-0", "0.0", `"10"`, `"0"`, "00", "05",
			"-1.0", "5e-1", "1E400", "[]", "true",
		})
	case "stream", "shift", "truncate", "use_mmap":
		return pick(f, []string{"true", "false", "null"})
	}
	return pick(f, []string{"0", "1", "99", "null", "-1"})
}

// spell writes a name in one of the ways that a decoder may take for it, or may not.
func (f *fuzzer) spell(name string) string {
	if f.chance(2) {
		return `"` + name + `"`
	}
	upper, kelvin, escape := f.chance(2), f.chance(3), f.chance(3)
	var out strings.Builder
	for _, char := range name {
		if upper && f.chance(2) && char >= 'a' && char <= 'z' {
			char -= 'a' - 'A'
		}
		if kelvin && f.chance(2) {
			switch char {
			case 'k', 'K':
				char = '\u212A'
			case 's', 'S':
				char = '\u017F'
			}
		}
		if escape && f.chance(2) {
			fmt.Fprintf(&out, pick(f, []string{`\u%04x`, `\u%04X`}), char)
		} else {
			out.WriteRune(char)
		}
	}
	spelt := out.String()
	if f.chance(8) { // near, but not it
		spelt = pick(f, []string{
			spelt + `\u0000`, spelt + " ", " " + spelt, spelt + `\ud800`, spelt + "\xff", spelt + `\"`, spelt + "\x00",
			spelt + "\u200b", spelt + `\udc00\ud800`,
			strings.Replace(spelt, "o", "ο", 1), strings.Replace(spelt, "o", "ö", 1), strings.Replace(spelt, "i", "ı", 1),
			strings.Replace(spelt, "e", `\x65`, 1),
		})
	}
	return `"` + spelt + `"`
}

// zstdMagic starts a frame of Zstandard, which Ollama takes on /v1/responses.
const zstdMagic = "\x28\xb5\x2f\xfd"

// noObject is a body of another kind.
func (f *fuzzer) noObject(body []byte) []byte {
	short := body[:min(len(body), 200)]
	return pick(f, []func() []byte{
		func() []byte { return nil },
		func() []byte { return []byte("   ") },
		func() []byte { return []byte("{}") },
		func() []byte { return []byte("[]") },
		func() []byte { return []byte("null") },
		func() []byte { return []byte(`"tiny"`) },
		func() []byte { return []byte("7") },
		func() []byte { return []byte("model=tiny&prompt=x") },
		func() []byte { return slices.Concat([]byte("["), body, []byte("]")) },
		func() []byte { // UTF-16
			out := []byte{0xff, 0xfe}
			for _, unit := range utf16.Encode([]rune(string(short))) {
				out = append(out, byte(unit), byte(unit>>8))
			}
			return out
		},
		func() []byte { // a frame with one raw block
			size := 8*len(short) + 1
			header := []byte{0x20, byte(len(short)), byte(size), byte(size >> 8), byte(size >> 16)}
			return slices.Concat([]byte(zstdMagic), header, short)
		},
		func() []byte { // megabytes
			padding := bytes.Repeat([]byte("x\\\""), (1+f.IntN(2))<<20/3)
			return slices.Concat([]byte(`{"p":"`), padding, []byte(`",`), body[min(1, len(body)):])
		},
		func() []byte { // more than a body may have
			return slices.Concat([]byte(`{"model":"tiny","prompt":"`), bytes.Repeat([]byte("x"), fuzzBodyMiB<<20), []byte(`"}`))
		},
	})()
}
