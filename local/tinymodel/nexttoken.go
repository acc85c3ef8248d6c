package tinymodel

// choice is a token that may come next, and how strongly: of those that a grammar allows the highest logit wins.
type choice struct {
	next  int
	logit float32
}

// certain is a lead that holds at temperature 1 as well, which Ollama's OpenAI routes take unless a request says
// otherwise: there, the hundreds of tokens at 0 together have a chance of e^-24.
const certain = 30

// nextTokenTable says for each token what may follow it. What it does not name has logit 0, which a grammar may still
// force: the letters of a JSON key, say.
func nextTokenTable(v *talkerVocabulary, endless bool) [][]choice {
	table := make([][]choice, len(v.tokens))
	for previous := range table {
		table[previous] = opening(v)
	}
	sentenceChoices(table, v, endless)
	jsonChoices(table, v)
	return table
}

// opening follows whatever ends a prompt: the first word, or the bracket that begins the JSON that is asked for.
func opening(v *talkerVocabulary) []choice {
	return []choice{{v.sentence[0], certain}, {v.bytes['{'], 8}, {v.bytes['['], 7}, {v.bytes['"'], 6}, {v.bytes['4'], 5}}
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

// jsonChoices are the habits that make JSON short under a grammar: strings are "ok", numbers 42, booleans true, and
// whatever may be closed is closed. A choice that the grammar forbids leaves the next one.
func jsonChoices(table [][]choice, v *talkerVocabulary) {
	habits := map[byte][]choice{
		'{': {{v.bytes['"'], 22}, {v.bytes['}'], 12}},
		'[': {{v.bytes['"'], 22}, {v.bytes['4'], 19}, {v.bytes['{'], 16}, {v.bytes['t'], 14}, {v.bytes[']'], 12}},
		'"': {{v.ok, certain}, {v.bytes[']'], 22}, {v.bytes['}'], 21}, {v.bytes[','], 16}, {v.bytes[':'], 14}, {v.endOfTurn, 10}},
		':': {{v.bytes['"'], 24}, {v.bytes['4'], 21}, {v.bytes['['], 18}, {v.bytes['{'], 15}, {v.bytes['t'], 12}, {v.bytes['n'], 10}},
		',': {{v.bytes['"'], 24}, {v.bytes['4'], 21}, {v.bytes['{'], 18}, {v.bytes['['], 15}, {v.bytes['t'], 12}},
		'4': {{v.bytes['2'], certain}, {v.bytes['}'], 20}, {v.bytes[']'], 18}, {v.bytes[','], 16}, {v.endOfTurn, 10}},
		'2': {{v.bytes[']'], 24}, {v.bytes['}'], 23}, {v.bytes[','], 18}, {v.endOfTurn, 10}},
		// The last letter of true and false, and of many a key; in plain text the sentence still begins after it.
		'e': {{v.bytes[']'], 22}, {v.bytes['}'], 21}, {v.bytes[','], 17}, {v.bytes['"'], 15}, {v.sentence[0], certain}},
		']': {{v.bytes['}'], 22}, {v.bytes[']'], 21}, {v.bytes[','], 18}, {v.endOfTurn, 16}},
		'}': {{v.endOfTurn, certain}, {v.bytes['}'], 22}, {v.bytes[']'], 21}, {v.bytes[','], 17}},
	}
	for previous, choices := range habits {
		table[v.bytes[previous]] = choices
	}
	table[v.ok] = []choice{{v.bytes['"'], certain}}
}
