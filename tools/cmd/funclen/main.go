// Command funclen prints the functions in Go files that have more lines than allowed, and fails if there are any. A
// function's lines are those from its keyword func to its closing brace.
//
//	funclen MAX FILE...
package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "funclen:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("usage: funclen MAX FILE, for one file or more")
	}
	limit, err := strconv.Atoi(args[0])
	if err != nil {
		return fmt.Errorf("MAX is %q: use a number of lines", args[0])
	}
	found := 0
	for _, file := range args[1:] {
		n, err := report(file, limit)
		if err != nil {
			return err
		}
		found += n
	}
	if found > 0 {
		return fmt.Errorf("%d functions have more than %d lines: split them", found, limit)
	}
	return nil
}

// report prints the long functions of a file, and returns their number. A function literal counts on its own only
// outside of functions.
func report(file string, limit int) (found int, err error) {
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, file, nil, parser.SkipObjectResolution)
	if err != nil {
		return 0, err
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		name := "a function literal"
		switch function := n.(type) {
		case *ast.FuncDecl:
			name = function.Name.Name
		case *ast.FuncLit:
		default:
			return true
		}
		first, last := files.Position(n.Pos()), files.Position(n.End())
		if lines := last.Line - first.Line + 1; lines > limit {
			fmt.Printf("%s:%d: %s has %d lines\n", file, first.Line, name, lines)
			found++
		}
		return false
	})
	return found, nil
}
