package ggufread

import (
	"regexp"
	"slices"

	gguf "github.com/gpustack/gguf-parser-go"
)

// Package is what a model is published with beside its weights.
type Package struct {
	// Template in Go's syntax; empty where there is none.
	Template string
	// Parser is the name of Ollama's own parser for the model's answers; empty where there is none.
	Parser string
	// Projector tells that there is one, in a file of its own.
	Projector bool
}

// What Ollama 0.17's own parsers can take from an answer.
var (
	parsesTools = []string{
		"cogito", "deepseek3", "functiongemma", "glm-4.7", "glm-ocr", "harmony", "lfm2", "lfm2-thinking", "ministral",
		"nemotron-3-nano", "olmo3", "qwen3", "qwen3-coder", "qwen3-thinking", "qwen3-vl-instruct", "qwen3-vl-thinking",
		"qwen3.5",
	}
	parsesThinking = []string{
		"cogito", "deepseek3", "glm-4.7", "harmony", "lfm2-thinking", "nemotron-3-nano", "olmo3-think", "qwen3-thinking",
		"qwen3-vl-thinking", "qwen3.5",
	}
)

// Fields that a template names in its actions.
var (
	namesTools    = regexp.MustCompile(`{{[^}]*\.Tools\b`)
	namesSuffix   = regexp.MustCompile(`{{[^}]*\.Suffix\b`)
	namesThinking = regexp.MustCompile(`{{[^}]*\.Thinking\b`)
)

// Capabilities are what Ollama 0.17 will say that the model can do, in its words and order.
func Capabilities(file *gguf.GGUFFile, with Package) []string {
	architecture := file.Architecture().Architecture
	can := []string{"completion"}
	if embeds(file) {
		can = []string{"embedding"}
	}
	add := func(capability string, has bool) {
		if has && !slices.Contains(can, capability) {
			can = append(can, capability)
		}
	}
	_, sees := file.Header.MetadataKV.Get(architecture + ".vision.block_count")
	add("vision", sees)
	add("tools", namesTools.MatchString(with.Template) || slices.Contains(parsesTools, with.Parser))
	add("insert", namesSuffix.MatchString(with.Template))
	add("vision", with.Projector)
	add(
		"thinking",
		namesThinking.MatchString(with.Template) || slices.Contains(parsesThinking, with.Parser) || slices.Contains(
			[]string{"gptoss", "gpt-oss"}, architecture,
		),
	)
	return can
}

// embeds tells a model that makes vectors of texts, and answers none, by the key that Ollama looks for.
func embeds(file *gguf.GGUFFile) bool {
	_, ok := file.Header.MetadataKV.Get(file.Architecture().Architecture + ".pooling_type")
	return ok
}
