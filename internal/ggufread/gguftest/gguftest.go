// Package gguftest makes small GGUF files for tests.
package gguftest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// Values holds a header's values by key. Allowed types: uint32, string, []uint32, []bool and []string.
type Values map[string]any

// Tensors holds the shapes of f32 tensors by name. Their data are zeros.
type Tensors map[string][]uint64

// Numbers of the GGUF format: value types, and the alignment of the data in bytes.
const (
	typeUint32, typeBool, typeString, typeArray = 4, 7, 8, 9
	alignment                                   = 32
)

// Llama returns a small model of the llama architecture. values overrides its header; a nil value removes a key.
func Llama(values Values) []byte {
	all := Values{
		"general.architecture": "llama", "general.file_type": uint32(0),
		"llama.context_length": uint32(2048), "llama.embedding_length": uint32(64), "llama.block_count": uint32(2),
		"llama.feed_forward_length":  uint32(128),
		"llama.attention.head_count": uint32(4), "llama.attention.head_count_kv": uint32(2),
		"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": []string{"a", "b", "c"},
	}
	maps.Copy(all, values)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	return File(all, Blocks(64, 128, 2))
}

// Blocks returns the tensors of a model with the given number of blocks.
func Blocks(width, feedForward uint64, blocks int) Tensors {
	tensors := Tensors{"token_embd.weight": {width, 3}, "output_norm.weight": {width}, "output.weight": {width, 3}}
	for i := range blocks {
		block := fmt.Sprintf("blk.%d.", i)
		for name, shape := range map[string][]uint64{
			"attn_norm": {width}, "attn_q": {width, width}, "attn_k": {width, width / 2}, "attn_v": {width, width / 2},
			"attn_output": {width, width},
			"ffn_norm":    {width}, "ffn_gate": {width, feedForward}, "ffn_up": {width, feedForward},
			"ffn_down": {feedForward, width},
		} {
			tensors[block+name+".weight"] = shape
		}
	}
	return tensors
}

// File returns a complete GGUF file.
func File(values Values, tensors Tensors) []byte {
	var b bytes.Buffer
	put := func(numbers ...any) {
		for _, n := range numbers {
			_ = binary.Write(&b, binary.LittleEndian, n) // a bytes.Buffer never fails
		}
	}
	text := func(s string) { put(uint64(len(s)), []byte(s)) }
	put([]byte("GGUF"), uint32(3), uint64(len(tensors)), uint64(len(values)))
	for _, key := range slices.Sorted(maps.Keys(values)) {
		text(key)
		switch value := values[key].(type) {
		case uint32:
			put(uint32(typeUint32), value)
		case string:
			put(uint32(typeString))
			text(value)
		case []uint32:
			put(uint32(typeArray), uint32(typeUint32), uint64(len(value)), value)
		case []bool:
			put(uint32(typeArray), uint32(typeBool), uint64(len(value)), value)
		case []string:
			put(uint32(typeArray), uint32(typeString), uint64(len(value)))
			for _, s := range value {
				text(s)
			}
		default:
			panic(fmt.Sprintf("%s: values of type %T are not supported", key, value))
		}
	}
	var offset uint64
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		text(name)
		put(uint32(len(tensors[name])), tensors[name], uint32(0), offset)
		size := uint64(4)
		for _, n := range tensors[name] {
			size *= n
		}
		offset += (size + alignment - 1) / alignment * alignment
	}
	put(make([]byte, (alignment-b.Len()%alignment)%alignment), make([]byte, offset))
	return b.Bytes()
}
