// Package ggufread takes from a GGUF file's header what a model's memory follows from.
package ggufread

import (
	"errors"
	"fmt"
	"io"
	"os"

	gguf "github.com/gpustack/gguf-parser-go"
)

const (
	// firstRead of a remote file holds the whole header of a small model; a vocabulary of 128k words takes 8 MiB.
	firstRead = 4 << 20
	// longestHeader is well above the largest, so that a broken file is not read whole.
	longestHeader = 256 << 20
)

// Open reads the header of a file; of a model in several files, name any of them.
func Open(path string) (*gguf.GGUFFile, error) {
	file, err := parse(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: give a GGUF file of a model", path, err)
	}
	return file, nil
}

// Fetch reads the header of a file of size bytes that is elsewhere; read returns its bytes from (included) to
// (excluded). Headers do not say how long they are, so it asks for more until one is whole.
func Fetch(size int64, read func(from, to int64) ([]byte, error)) (*gguf.GGUFFile, error) {
	// The parser wants a file of the full size: a sparse one takes no more than the header on the disk.
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
		// What is not there yet reads as zeros: a header that ends behind them is not whole, whatever it says.
		if err == nil && file.TensorDataStartOffset <= want {
			return file, nil
		}
		if errors.Is(err, gguf.ErrGGUFFileInvalidFormat) || want == size || want >= longestHeader {
			return nil, fmt.Errorf("the weights are no GGUF file that can be read: %w", errors.Join(err, noEnd(err, want)))
		}
	}
}

func noEnd(err error, want int64) error {
	if err != nil {
		return nil
	}
	return fmt.Errorf("its header does not end within %d bytes", want)
}

// parse makes an error of the parser's panics on files that are not what they say.
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
