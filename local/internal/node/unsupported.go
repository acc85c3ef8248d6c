//go:build !linux

package node

import (
	"context"
	"errors"
	"runtime"

	"ollama-k8s/local/internal/images"
	"ollama-k8s/local/internal/progress"
)

var errUnsupported = errors.New("the embedded cluster needs Linux, and this is " + runtime.GOOS +
	": run it in a Linux machine, or run `pulumi up -s dev` against a cluster of your own")

// Check always refuses here.
func Check(context.Context) error { return errUnsupported }

// Up always fails here.
func Up(context.Context, *progress.Log, []images.Image) (*Node, error) { return nil, errUnsupported }

// Import always fails here.
func Import(context.Context, *progress.Log, []images.Image) error { return errUnsupported }

// Down always succeeds here: there is nothing to take down.
func Down(context.Context, *progress.Log) error { return nil }

// Leftovers is always empty here.
func Leftovers(context.Context) ([]string, error) { return nil, nil }

// Kubeconfig always fails here.
func Kubeconfig() (string, error) { return "", errUnsupported }

// Status is always empty here.
func Status(context.Context) ([]PartStatus, error) { return nil, nil }
