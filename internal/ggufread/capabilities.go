package ggufread

import (
	"regexp"
	"slices"

	gguf "github.com/gpustack/gguf-parser-go"
)

// Package describes what a registry publishes with a model's weights.
type Package struct {
	// Template is the prompt template in Go's syntax. Empty: the model has none.
	Template string
	// Parser names Ollama's built-in parser for the model's answers. Empty: the model has none.
	Parser string
	// Projector is true if the model has a projector in a separate file.
	Projector bool
}

// The built-in parsers of Ollama 0.17 that find tool calls in an answer, and those that find its thinking.
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

// These match templates that use the field.
var (
	namesTools    = regexp.MustCompile(`{{[^}]*\.Tools\b`)
	namesSuffix   = regexp.MustCompile(`{{[^}]*\.Suffix\b`)
	namesThinking = regexp.MustCompile(`{{[^}]*\.Thinking\b`)
)

// Capabilities returns what Ollama 0.17 reports that the model can do, in Ollama's words and order.
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

// embeds reports whether the model only computes embeddings. Ollama checks the same key.
func embeds(file *gguf.GGUFFile) bool {
	_, ok := file.Header.MetadataKV.Get(file.Architecture().Architecture + ".pooling_type")
	return ok
}
