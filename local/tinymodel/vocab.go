package tinymodel

import (
	"fmt"
	"strings"
)

// Token types of the GGUF format.
const (
	tokenNormal  int32 = 1
	tokenUnknown int32 = 2
	tokenControl int32 = 3
	tokenUnused  int32 = 5
)

// Sentence is what a model of [Llama] says, one token per word. No word occurs twice, because the model chooses the
// next word by the previous one alone.
const Sentence = "Hello! I am a tiny model made for tests: every word of this answer was chosen long before you " +
	"asked, so clients, queues, limits and dashboards can be watched at work without downloading anything large. Goodbye."

// vocabulary lists the tokens of a model. A token's id is its index.
type vocabulary struct {
	tokens []string
	types  []int32
}

func (v *vocabulary) add(token string, tokenType int32) (id int) {
	v.tokens = append(v.tokens, token)
	v.types = append(v.types, tokenType)
	return len(v.tokens) - 1
}

// talkerVocabulary is the vocabulary of [Llama]: ChatML's marks, every byte, the word ok, and the words of the
// sentence.
type talkerVocabulary struct {
	vocabulary
	endOfText, endOfTurn int
	bytes                [256]int
	ok                   int
	sentence             []int
}

func newTalkerVocabulary() *talkerVocabulary {
	v := &talkerVocabulary{}
	v.endOfText = v.add("<|endoftext|>", tokenControl)
	v.add("<|im_start|>", tokenControl)
	v.endOfTurn = v.add("<|im_end|>", tokenControl)
	spelling := byteSpelling()
	for b := range v.bytes {
		v.bytes[b] = v.add(spelling[b], tokenNormal)
	}
	v.ok = v.add("ok", tokenNormal)
	for i, word := range strings.Fields(Sentence) {
		if i > 0 {
			word = spelling[' '] + word
		}
		v.sentence = append(v.sentence, v.add(word, tokenNormal))
	}
	// ggml computes in blocks of 32 weights.
	for len(v.tokens)%32 != 0 {
		v.add(fmt.Sprintf("<|unused%d|>", len(v.tokens)), tokenUnused)
	}
	return v
}

// byteSpelling returns GPT-2's spelling of each byte: printable bytes as themselves, the others as runes from 256 up.
func byteSpelling() (spelling [256]string) {
	next := rune(256)
	for b := range spelling {
		if (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff) {
			spelling[b] = string(rune(b))
			continue
		}
		spelling[b] = string(next)
		next++
	}
	return spelling
}

// embedderVocabulary is the vocabulary of [Bert]: its marks, every printable character at the start of a word and
// within one, and some whole words.
type embedderVocabulary struct {
	vocabulary
	padding, unknown, classify, separator, mask int
}

const embedderWords = "the an and or of to in is are was " +
	"cat dog house server model proxy queue token error log disk network"

func newEmbedderVocabulary() *embedderVocabulary {
	// llama.cpp's WordPiece marks the start of a word, where BERT's has ## inside it.
	const wordStart = "▁"
	v := &embedderVocabulary{}
	v.padding = v.add("[PAD]", tokenControl)
	v.unknown = v.add("[UNK]", tokenUnknown)
	v.classify = v.add("[CLS]", tokenControl)
	v.separator = v.add("[SEP]", tokenControl)
	v.mask = v.add("[MASK]", tokenControl)
	for c := '!'; c <= '~'; c++ {
		if c >= 'A' && c <= 'Z' {
			continue // the tokenizer converts to lower case first
		}
		v.add(wordStart+string(c), tokenNormal)
		v.add(string(c), tokenNormal)
	}
	for word := range strings.FieldsSeq(embedderWords) {
		v.add(wordStart+word, tokenNormal)
	}
	return v
}
