// Package images builds the container images that the embedded cluster runs, from the tools of package toolchain,
// because there is no registry to pull them from. Each image is one layer. The same inputs give the same bytes, so an
// image keeps its digest until its content changes.
package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"ollama-k8s/local/internal/progress"
	"ollama-k8s/local/internal/toolchain"
)

// Image is an image that can be imported.
type Image struct {
	Ref     string // what a pod names, for instance localhost/ollama:0.17.4
	Archive string // path of its docker-archive, a tar file; a new one for each change
}

// Ensure builds the missing images, with the tools and packages that they need, and returns all images of a cluster
// with the stack in it. It is quick if nothing is missing.
func Ensure(ctx context.Context, log *progress.Log) ([]Image, error) {
	return ensure(ctx, log, recipes)
}

// EnsureExtras does the same for the extra images that contain any of the tools, if there are any.
func EnsureExtras(ctx context.Context, log *progress.Log, tools ...toolchain.Name) ([]Image, error) {
	return ensure(ctx, log, extrasWith(tools))
}

func extrasWith(tools []toolchain.Name) (wanted []recipe) {
	for _, r := range extras {
		if slices.ContainsFunc(r.tools, func(n toolchain.Name) bool { return slices.Contains(tools, n) }) {
			wanted = append(wanted, r)
		}
	}
	return wanted
}

func ensure(ctx context.Context, log *progress.Log, wanted []recipe) ([]Image, error) {
	if err := toolchain.EnsureDebian(ctx, log); err != nil {
		return nil, err
	}
	var tools []toolchain.Name
	for _, r := range wanted {
		for _, n := range r.tools {
			if !slices.Contains(tools, n) {
				tools = append(tools, n)
			}
		}
	}
	if err := toolchain.Ensure(ctx, log, tools...); err != nil {
		return nil, err
	}
	cache, err := toolchain.CacheFolder()
	if err != nil {
		return nil, err
	}
	shelf := filepath.Join(cache, "images")
	if err := os.MkdirAll(shelf, 0o755); err != nil {
		return nil, fmt.Errorf("making the cache of images: %w", err)
	}
	unlock, err := toolchain.Lock(ctx, "images")
	if err != nil {
		return nil, err
	}
	defer unlock()
	var made []Image
	for _, r := range wanted {
		archive, err := r.ensure(log, shelf)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", r.ref, err)
		}
		made = append(made, Image{Ref: r.ref, Archive: archive})
	}
	return made, nil
}

// ensure returns the path of the recipe's archive. It writes the archive if the shelf has none.
func (r recipe) ensure(log *progress.Log, shelf string) (string, error) {
	root, err := r.root()
	if err != nil {
		return "", err
	}
	tag, err := name.NewTag(r.ref)
	if err != nil {
		return "", fmt.Errorf("reading its reference: %w", err)
	}
	key, err := root.key(r.ref, r.config)
	if err != nil {
		return "", err
	}
	archive := filepath.Join(shelf, fmt.Sprintf("%s-%s-%s.tar", filepath.Base(tag.RepositoryStr()), tag.TagStr(), key))
	if _, err := os.Stat(archive); err == nil {
		return archive, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("looking for the archive: %w", err)
	}
	return archive, log.Step("image "+r.ref, func(*progress.Step) error {
		return write(archive, tag, root, r)
	})
}

// write writes the archive under a temporary name first, so that an archive with its final name is always complete. The
// caller holds the lock.
func write(archive string, tag name.Tag, root rootfs, r recipe) error {
	unfinished := filepath.Join(filepath.Dir(archive), ".unfinished")
	if err := os.RemoveAll(unfinished); err != nil { // from a run that was killed
		return fmt.Errorf("removing an unfinished archive: %w", err)
	}
	if err := os.Mkdir(unfinished, 0o755); err != nil {
		return fmt.Errorf("making a folder for the archive: %w", err)
	}
	defer os.RemoveAll(unfinished)
	image, err := build(unfinished, root, r.config)
	if err != nil {
		return err
	}
	whole := filepath.Join(unfinished, "image.tar")
	if err := tarball.WriteToFile(whole, tag, image); err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	if err := os.Rename(whole, archive); err != nil {
		return fmt.Errorf("finishing the archive: %w", err)
	}
	return nil
}
