package tinymodel

// choice is a token that may come next, with its logit: of the tokens that a grammar allows, the highest logit wins.
type choice struct {
	next  int
	logit float32
}

// certain is a logit that wins even at temperature 1, the default of Ollama's OpenAI routes: all the hundreds of tokens
// at 0 together then have a chance of e^-24.
const certain = 30

// nextTokenTable lists for each token the tokens that may follow it. All others have logit 0. A grammar can still force
// those, for example the letters of a JSON key.
func nextTokenTable(v *talkerVocabulary, endless bool) [][]choice {
	table := make([][]choice, len(v.tokens))
	for previous := range table {
		table[previous] = opening(v)
	}
	sentenceChoices(table, v, endless)
	jsonChoices(table, v)
	return table
}

// opening lists what may follow the end of a prompt: the first word, or the bracket that begins the requested JSON.
func opening(v *talkerVocabulary) []choice {
	return []choice{
		{v.sentence[0], certain}, {v.bytes['{'], 8}, {v.bytes['['], 7}, {v.bytes['"'], 6}, {v.bytes['4'], 5},
	}
}

// sentenceChoices leads from each word to the next, and from the last one to the end or to the first again.
func sentenceChoices(table [][]choice, v *talkerVocabulary, endless bool) {
	for i, word := range v.sentence {
		next := v.endOfTurn
		if i+1 < len(v.sentence) {
			next = v.sentence[i+1]
		} else if endless {
			next = v.sentence[0]
		}
		table[word] = []choice{{next, certain}}
	}
}

// jsonChoices keeps JSON short under a grammar: strings are "ok", numbers 42, booleans true, and brackets close as soon
// as they may. If the grammar forbids a choice, the next one wins.
func jsonChoices(table [][]choice, v *talkerVocabulary) {
	habits := map[byte][]choice{
		'{': {{v.bytes['"'], 22}, {v.bytes['}'], 12}},
		'[': {{v.bytes['"'], 22}, {v.bytes['4'], 19}, {v.bytes['{'], 16}, {v.bytes['t'], 14}, {v.bytes[']'], 12}},
		'"': {
			{v.ok, certain}, {v.bytes[']'], 22}, {v.bytes['}'], 21}, {v.bytes[','], 16}, {v.bytes[':'], 14},
			{v.endOfTurn, 10},
		},
		':': {
			{v.bytes['"'], 24}, {v.bytes['4'], 21}, {v.bytes['['], 18}, {v.bytes['{'], 15}, {v.bytes['t'], 12},
			{v.bytes['n'], 10},
		},
		',': {{v.bytes['"'], 24}, {v.bytes['4'], 21}, {v.bytes['{'], 18}, {v.bytes['['], 15}, {v.bytes['t'], 12}},
		'4': {{v.bytes['2'], certain}, {v.bytes['}'], 20}, {v.bytes[']'], 18}, {v.bytes[','], 16}, {v.endOfTurn, 10}},
		'2': {{v.bytes[']'], 24}, {v.bytes['}'], 23}, {v.bytes[','], 18}, {v.endOfTurn, 10}},
		// The last letter of true, of false and of many keys. In plain text the sentence still begins after it.
		'e': {{v.bytes[']'], 22}, {v.bytes['}'], 21}, {v.bytes[','], 17}, {v.bytes['"'], 15}, {v.sentence[0], certain}},
		']': {{v.bytes['}'], 22}, {v.bytes[']'], 21}, {v.bytes[','], 18}, {v.endOfTurn, 16}},
		'}': {{v.endOfTurn, certain}, {v.bytes['}'], 22}, {v.bytes[']'], 21}, {v.bytes[','], 17}},
	}
	for previous, choices := range habits {
		table[v.bytes[previous]] = choices
	}
	table[v.ok] = []choice{{v.bytes['"'], certain}}
}
