// Package ggufread reads, from the header of a GGUF file, the numbers from which a model's memory is calculated.
package ggufread

import (
	"errors"
	"fmt"
	"io"
	"os"

	gguf "github.com/gpustack/gguf-parser-go"
)

const (
	// firstRead is the size of the first read of a remote file, in bytes: the whole header of a small model. A vocabulary
	// of 128k words takes 8 MiB.
	firstRead = 4 << 20
	// longestHeader is well above the largest known header. It keeps Fetch from reading the whole of a broken file.
	longestHeader = 256 << 20
)

// Open reads the header of a GGUF file. If a model has several files, pass any of them.
func Open(path string) (*gguf.GGUFFile, error) {
	file, err := parse(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: pass the GGUF file of a model", path, err)
	}
	return file, nil
}

// Fetch reads the header of a remote file of size bytes. read returns the bytes in [from, to). A header does not state
// its length, so Fetch reads more until the header is complete.
func Fetch(size int64, read func(from, to int64) ([]byte, error)) (*gguf.GGUFFile, error) {
	// The parser needs a file of the full size. A sparse file takes only the header's size on the disk.
	local, err := os.CreateTemp("", "header-*.gguf")
	if err != nil {
		return nil, err
	}
	defer os.Remove(local.Name())
	defer local.Close()
	if err := local.Truncate(size); err != nil {
		return nil, err
	}
	for have, want := int64(0), min(firstRead, size); ; have, want = want, min(2*want, size) {
		part, err := read(have, want)
		if err != nil {
			return nil, err
		}
		if _, err := local.WriteAt(part, have); err != nil {
			return nil, err
		}
		file, err := parse(local.Name())
		// Parts that are not fetched yet read as zeros, so a header that ends beyond the fetched part is incomplete even if
		// it parses.
		if err == nil && file.TensorDataStartOffset <= want {
			return file, nil
		}
		if errors.Is(err, gguf.ErrGGUFFileInvalidFormat) || want == size || want >= longestHeader {
			return nil, fmt.Errorf("the weights are not a readable GGUF file: %w", errors.Join(err, noEnd(err, want)))
		}
	}
}

func noEnd(err error, want int64) error {
	if err != nil {
		return nil
	}
	return fmt.Errorf("the header does not end within %d bytes", want)
}

// parse turns the panics of the parser on malformed files into errors.
func parse(path string) (file *gguf.GGUFFile, err error) {
	defer func() {
		if broken := recover(); broken != nil {
			err = fmt.Errorf("the header is broken: %v", broken)
		}
	}()
	file, err = gguf.ParseGGUFFile(path, gguf.SkipLargeMetadata())
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("the file ends within its header: %w", err)
	}
	return file, err
}
