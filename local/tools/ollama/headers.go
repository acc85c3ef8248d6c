//go:build tools

// Package ollama pins what `go build github.com/ollama/ollama` needs and its
// own module does not carry. A module archive leaves out folders named vendor,
// and llama.cpp keeps its third-party headers in one: malgo ships the same
// miniaudio.h, so its version is pinned here beside Ollama's.
package ollama

import _ "github.com/gen2brain/malgo"
