package stacks

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"ollama-k8s/internal/lockfile"
	"ollama-k8s/internal/modelfile"
	"ollama-k8s/internal/modelref"
)

// What the models are: their entries in the lock, their Modelfiles, and which is made from which.

func (c *Config) readLock(project fs.FS) []string {
	lock, err := lockfile.Read(project)
	if err != nil {
		return strings.Split(err.Error(), "\n")
	}
	for i := range c.Models {
		if m := &c.Models[i]; m.Modelfile == "" {
			m.locked, _ = lock.Get(m.Name) // an unknown one has no digest and no figures
		}
	}
	c.lock = lock
	return nil
}

func (c *Config) readModelfiles(project fs.FS) (problems []string) {
	for i := range c.Models {
		m := &c.Models[i]
		if m.Modelfile == "" {
			continue
		}
		text, err := fs.ReadFile(project, strings.TrimPrefix(m.Modelfile, "./"))
		if err != nil {
			problems = append(problems, fmt.Sprintf(
				"models[%d].modelfile: %q cannot be read (%v): give the path of a file below the project's folder", i, m.Modelfile,
				err,
			))
			continue
		}
		m.Text = string(text)
		file, wrong := modelfile.Parse(m.Modelfile, text)
		problems = append(problems, wrong...)
		if len(wrong) == 0 {
			m.file = file
		}
	}
	return problems
}

// resolve orders the models so that what a Modelfile is made from comes before it, and adds a FROM that only the lock
// knows.
func (c *Config) resolve() (problems []string) {
	byName := map[string]*Model{}
	for i := range c.Models {
		byName[modelref.Normal(c.Models[i].Name)] = &c.Models[i]
	}
	c.base = map[string]string{}
	done := map[string]bool{}
	var visit func(m *Model, path []string)
	visit = func(m *Model, path []string) {
		name := modelref.Normal(m.Name)
		if done[name] {
			return
		}
		done[name] = true
		if m.file != nil {
			from := modelref.Normal(m.file.From)
			at := fmt.Sprintf("%s:%d: FROM %s", m.Modelfile, m.file.FromLine, m.file.From)
			switch parent, listed := byName[from]; {
			case from == name || slices.Contains(path, from):
				problems = append(problems, at+" leads back to this model: name a model that is pulled")
			case listed:
				visit(parent, append(path, name))
			case c.lock.Models[from].Bytes > 0:
				pulled := &Model{Name: m.file.From, locked: c.lock.Models[from]}
				byName[from] = pulled
				visit(pulled, nil)
			default:
				problems = append(
					problems, at+" is neither in models nor in "+lockfile.Name+": add it to models, or correct the name",
				)
			}
			c.base[name] = from
		}
		c.stored = append(c.stored, *m)
	}
	// Those that are pulled come first, so that a long list of Modelfiles does not hide a registry's trouble.
	for _, pulled := range []bool{true, false} {
		for i := range c.Models {
			if m := &c.Models[i]; (m.Modelfile == "") == pulled {
				visit(m, nil)
			}
		}
	}
	return problems
}

// numPredict is the limit of output tokens that the nearest Modelfile on the way fixes; 0 for none.
func (c *Config) numPredict(name string) int {
	name = modelref.Normal(name)
	for range len(c.stored) + 1 {
		for _, m := range c.stored {
			if modelref.Normal(m.Name) != name || m.file == nil {
				continue
			}
			if value, _, ok := m.file.NumPredict(); ok {
				return value
			}
		}
		name = c.base[name]
	}
	return 0
}

// origin is the pulled model whose weights a model has, and the context that the nearest Modelfile on the way fixes,
// with its place; 0 for none.
func (c *Config) origin(name string) (root Model, numCtx int, place string) {
	byName := map[string]Model{}
	for _, m := range c.stored {
		byName[modelref.Normal(m.Name)] = m
	}
	name = modelref.Normal(name)
	for range len(c.stored) + 1 {
		m := byName[name]
		if m.file == nil {
			return m, numCtx, place
		}
		if value, line, ok := m.file.NumCtx(); ok && numCtx == 0 {
			numCtx, place = value, fmt.Sprintf("%s:%d", m.Modelfile, line)
		}
		name = c.base[name]
	}
	return Model{}, numCtx, place
}
