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

// Reads each model's lock entry and Modelfile, and finds out which model is made from which.

func (c *Config) readLock(project fs.FS) []string {
	lock, err := lockfile.Read(project)
	if err != nil {
		return strings.Split(err.Error(), "\n")
	}
	for i := range c.Models {
		if m := &c.Models[i]; m.Modelfile == "" {
			m.locked, _ = lock.Get(m.Name) // a model that is not in the lock has no digest and no figures
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
				"models[%d].modelfile: %q cannot be read (%v): use the path of a file in the project's folder", i, m.Modelfile, err,
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

// resolve sorts the models so that the base of a Modelfile comes before it, and adds a base that is only in the lock.
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
	// Pulled models come first, so that many Modelfiles do not hide problems of a registry.
	for _, pulled := range []bool{true, false} {
		for i := range c.Models {
			if m := &c.Models[i]; (m.Modelfile == "") == pulled {
				visit(m, nil)
			}
		}
	}
	return problems
}

// numPredict returns the limit of output tokens that the nearest Modelfile in the chain of FROM sets, or 0.
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

// origin returns the pulled model whose weights a model has, and the context that the nearest Modelfile in the chain of
// FROM sets, or 0, with the file and line.
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
