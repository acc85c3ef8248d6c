//go:build linux

package node

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"ollama-k8s/local/internal/images"
	"ollama-k8s/local/internal/progress"
)

// Import loads more images into both nodes of the running cluster, until it goes down. Up neither needs nor removes
// them. If there is no cluster, the error is fs.ErrNotExist.
func Import(ctx context.Context, log *progress.Log, list []images.Image) error {
	if _, err := Kubeconfig(); err != nil {
		return err // open would create a folder
	}
	c, unlock, err := open(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if !c.adoptHolders() {
		return errors.New("the cluster does not run: run `make up` first")
	}
	return log.Step("import the images", func(*progress.Step) error {
		for _, m := range members {
			if err := c.importImages(ctx, m, list); err != nil {
				return err
			}
		}
		return nil
	})
}

// importImages imports the archives into a member's containerd, except images that it already has under the same
// reference.
func (c *cluster) importImages(ctx context.Context, m member, wanted []images.Image) error {
	ctr, err := exec.LookPath("ctr")
	if err != nil {
		return fmt.Errorf("%w: install Debian's package containerd", err)
	}
	have, err := c.presentImages(ctx, m)
	if err != nil {
		return err
	}
	var pending []images.Image
	for _, image := range wanted {
		id, err := archiveID(image.Archive)
		if err != nil {
			return fmt.Errorf("image %s: %w", image.Ref, err)
		}
		if have[image.Ref] == id {
			continue
		}
		cmd := exec.CommandContext(ctx, ctr, "--namespace=k8s.io", "images", "import", image.Archive)
		cmd.Dir = "/"
		cmd.Env = c.layout.environment(containerdOf(m))
		in := launch{group: containerdOf(m), hierarchies: c.hierarchies, enter: c.entering(&m)}
		if _, err := in.output(cmd); err != nil {
			return fmt.Errorf("image %s on %s: %w", image.Ref, m.Name, err)
		}
		pending = append(pending, image)
	}
	return c.awaitImages(ctx, m, pending)
}

// awaitImages waits until containerd's CRI plugin, which the kubelet asks, knows the images: an event tells it of an
// import.
func (c *cluster) awaitImages(ctx context.Context, m member, wanted []images.Image) error {
	if len(wanted) == 0 {
		return nil
	}
	return c.poll(ctx, func(ctx context.Context) error {
		have, err := c.presentImages(ctx, m)
		if err != nil {
			return err
		}
		for _, image := range wanted {
			id, err := archiveID(image.Archive)
			if err != nil {
				return err
			}
			if have[image.Ref] != id {
				return fmt.Errorf("image %s was imported on %s from %s, but is %q there and not %s",
					image.Ref, m.Name, image.Archive, have[image.Ref], id)
			}
		}
		return nil
	})
}

// presentImages maps each reference that the member knows to the image's id.
func (c *cluster) presentImages(ctx context.Context, m member) (map[string]string, error) {
	connection, err := c.dialRuntime(m)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	list, err := runtimeapi.NewImageServiceClient(connection).ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("the images on %s: %w", m.Name, err)
	}
	present := map[string]string{}
	for _, image := range list.Images {
		for _, ref := range image.RepoTags {
			present[ref] = image.Id
		}
	}
	return present, nil
}

// archiveID returns the id of the image in a docker-archive: the digest of its configuration, which is in the name of
// the configuration's file.
func archiveID(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	for archive := tar.NewReader(file); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return "", fmt.Errorf("%s has no manifest.json: it is not a docker-archive", path)
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		if header.Name != "manifest.json" {
			continue
		}
		var manifests []struct{ Config string }
		if err := json.NewDecoder(archive).Decode(&manifests); err != nil {
			return "", fmt.Errorf("%s: manifest.json: %w", path, err)
		}
		if len(manifests) != 1 {
			return "", fmt.Errorf("%s holds %d images, not one", path, len(manifests))
		}
		hex := strings.TrimSuffix(strings.TrimPrefix(manifests[0].Config, "sha256:"), ".json")
		return "sha256:" + hex, nil
	}
}

// find returns the image whose reference has this repository.
func find(list []images.Image, repository string) (images.Image, bool) {
	i := slices.IndexFunc(list, func(image images.Image) bool { return strings.HasPrefix(image.Ref, repository+":") })
	if i < 0 {
		return images.Image{}, false
	}
	return list[i], true
}
