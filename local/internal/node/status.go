//go:build linux

package node

import (
	"context"
	"maps"
	"slices"
)

// Status returns the state of each part, sorted by name, or nothing without a cluster. It changes nothing and does not
// wait for a run in progress.
func Status(ctx context.Context) ([]PartStatus, error) {
	root, err := StateDir()
	if err != nil {
		return nil, err
	}
	c := &cluster{layout: layout{root}, holders: map[string]record{}}
	if !exists(root) {
		return nil, nil
	}
	inv, err := c.parts()
	if err != nil {
		return nil, err
	}
	c.adoptHolders()
	var list []PartStatus
	for _, name := range slices.Sorted(maps.Keys(inv)) {
		status := PartStatus{Name: name, Log: c.layout.log(name)}
		if r, ok := c.layout.running(name); ok {
			status.PID, status.Since = r.PID, r.Since
			status.Problem = inv[name].healthy(ctx)
		} else {
			status.Problem = &deadError{part: name}
		}
		list = append(list, status)
	}
	return list, nil
}
