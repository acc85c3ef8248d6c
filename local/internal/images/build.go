package images

import (
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// build builds an image with one layer, which holds root. The layer stays in folder, and every read of the image reads
// it.
func build(folder string, root rootfs, config v1.Config) (v1.Image, error) {
	path := filepath.Join(folder, "layer.tar")
	file, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("writing the layer: %w", err)
	}
	if err := root.write(file); err != nil {
		_ = file.Close()
		return nil, err
	}
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("writing the layer: %w", err)
	}
	// Compression would cost more time than the disk space is worth.
	layer, err := tarball.LayerFromFile(path, tarball.WithCompressionLevel(gzip.NoCompression))
	if err != nil {
		return nil, fmt.Errorf("reading the layer: %w", err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, fmt.Errorf("adding the layer: %w", err)
	}
	described, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the image's configuration: %w", err)
	}
	described = described.DeepCopy()
	described.OS, described.Architecture = runtime.GOOS, runtime.GOARCH
	described.Config = config
	if image, err = mutate.ConfigFile(image, described); err != nil {
		return nil, fmt.Errorf("configuring the image: %w", err)
	}
	return image, nil
}
