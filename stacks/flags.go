package stacks

import (
	"errors"
	"flag"
	"os"
)

// Project is the project's name, the prefix of its config keys.
const Project = "ollama-k8s"

// File is a stack file that a command was told of.
type File struct{ Stack, Path string }

// FileFlags gives a command the flags -stack and -config.
func FileFlags(flags *flag.FlagSet) *File {
	file := &File{}
	flags.StringVar(&file.Stack, "stack", "", "the stack's `name`")
	flags.StringVar(&file.Path, "config", "", "a stack `file` to use in place of Pulumi.NAME.yaml")
	return file
}

// Values are the config values of the file; it is read in the project's folder.
func (f *File) Values() (map[string]string, error) {
	if f.Stack == "" {
		return nil, errors.New("which stack? give -stack NAME, or STACK=NAME to make")
	}
	path := f.Path
	if path == "" {
		path = "Pulumi." + f.Stack + ".yaml"
	}
	return ReadFile(path, Project)
}

// Load is the checked config of the file.
func (f *File) Load() (*Config, error) {
	values, err := f.Values()
	if err != nil {
		return nil, err
	}
	return Load(values, os.DirFS("."))
}
