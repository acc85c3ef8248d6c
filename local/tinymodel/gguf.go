package tinymodel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/ollama/ollama/fs/ggml"
	"github.com/x448/float16"
	"golang.org/x/sys/unix"
)

// model collects what a GGUF file holds: metadata and tensors.
type model struct {
	metadata   ggml.KV
	tensors    []*ggml.Tensor
	matrixType ggml.TensorType
}

func newModel(architecture, name string, t Type) *model {
	m := &model{matrixType: ggml.TensorTypeF16}
	fileType := ggml.FileTypeF16
	if t == F32 {
		m.matrixType, fileType = ggml.TensorTypeF32, ggml.FileTypeF32
	}
	m.metadata = ggml.KV{
		"general.architecture": architecture,
		"general.name":         name,
		"general.file_type":    uint32(fileType),
	}
	return m
}

// set adds metadata. Ollama reads counts as uint32 only, so an int becomes one.
func (m *model) set(key string, value any) {
	if n, ok := value.(int); ok {
		value = uint32(n)
	}
	m.metadata[key] = value
}

// matrix adds weights that map "in" values to "out" values: "out" rows of "in" weights.
func (m *model) matrix(name string, weights []float32, in, out int) {
	m.tensor(name, m.matrixType, weights, in, out)
}

// exact adds values that ggml needs in full precision, whatever the model's type: norms and biases.
func (m *model) exact(name string, values []float32, shape ...int) {
	m.tensor(name, ggml.TensorTypeF32, values, shape...)
}

func (m *model) tensor(name string, t ggml.TensorType, values []float32, shape ...int) {
	dimensions := make([]uint64, len(shape))
	for i, n := range shape {
		dimensions[i] = uint64(n)
	}
	m.tensors = append(m.tensors, &ggml.Tensor{
		Name:     name,
		Kind:     uint32(t),
		Shape:    dimensions,
		WriterTo: bytes.NewReader(encode(t, values)),
	})
}

func encode(t ggml.TensorType, values []float32) []byte {
	var b []byte
	for _, v := range values {
		if t == ggml.TensorTypeF16 {
			b = binary.LittleEndian.AppendUint16(b, float16.Fromfloat32(v).Bits())
		} else {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		}
	}
	return b
}

// bytes returns the GGUF file, made by Ollama's own writer. That writer needs an *os.File. Its file exists in memory
// only, because a container with a single binary has no /tmp.
func (m *model) bytes() ([]byte, error) {
	fd, err := unix.MemfdCreate("gguf", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("creating a memory file for model %s: %w", m.metadata["general.name"], err)
	}
	file := os.NewFile(uintptr(fd), "gguf")
	defer file.Close()
	if err := ggml.WriteGGUF(file, m.metadata, m.tensors); err != nil {
		return nil, fmt.Errorf("writing model %s: %w", m.metadata["general.name"], err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("reading model %s back: %w", m.metadata["general.name"], err)
	}
	data, err := io.ReadAll(file)
	if err != nil {
		return nil, fmt.Errorf("reading model %s back: %w", m.metadata["general.name"], err)
	}
	return data, nil
}
