// Command charts draws into one SVG what a Prometheus measured between two points in time: a whole Grafana dashboard
// (-dashboard), or a few panels below each other with a common time axis (-chart), some with lines from a CSV file
// (-data). It smooths nothing, fills nothing in and leaves nothing out: a gap in the data is a gap in the line, and a
// panel says so if its query has no answer. It is a module of its own, so that the program does not depend on a drawing
// library.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"
)

func main() {
	err := run(context.Background(), os.Args[1:], os.Stderr)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// run writes the file that the flags ask for, or none after an error. Warnings go to notes.
func run(ctx context.Context, args []string, notes io.Writer) error {
	flags := flag.NewFlagSet("charts", flag.ContinueOnError)
	flags.SetOutput(notes)
	server := flags.String("prometheus", "", "`URL` of the Prometheus")
	from := flags.String("from", "", "first `time`, such as 2025-11-25T17:00:00Z")
	to := flags.String("to", "", "last `time`")
	dashboard := flags.String("dashboard", "", "Grafana dashboard, a JSON `file`")
	chart := flags.String("chart", "", "panels below each other, a JSON `file`: {\"title\", \"panels\": "+
		`[{"title", "unit", "targets": [{"expr" or "csv", "legendFormat"}]}]}`)
	data := flags.String("data", "", "lines for -chart, a CSV `file` with the columns time,series,value; "+
		"a target refers to a series by its csv")
	out := flags.String("out", "", "SVG `file` to write")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: the command accepts flags only, see -help", flags.Arg(0))
	}
	if *server == "" || *out == "" {
		return errors.New("-prometheus and -out are required, see -help")
	}
	span, err := parseSpan(*from, *to)
	if err != nil {
		return err
	}

	var p *page
	switch {
	case (*dashboard == "") == (*chart == ""):
		return errors.New("give either -dashboard or -chart")
	case *dashboard != "" && *data != "":
		return errors.New("-data goes with -chart: a dashboard shows only data from Prometheus")
	case *dashboard != "":
		p, err = readDashboard(*dashboard)
	default:
		p, err = readChart(*chart)
	}
	if err != nil {
		return err
	}
	var recorded map[string][]point
	if *data != "" {
		if recorded, err = readData(*data, span); err != nil {
			return err
		}
	}
	if err := fill(ctx, p, span, &prometheus{base: *server}, recorded, notes); err != nil {
		return err
	}
	return os.WriteFile(*out, drawPage(p, span), 0o644)
}

// span is the time from the first to the last point of the drawing.
type span struct{ from, to time.Time }

func parseSpan(from, to string) (span, error) {
	var s span
	for _, end := range []struct {
		flag, text string
		at         *time.Time
	}{{"-from", from, &s.from}, {"-to", to, &s.to}} {
		at, err := time.Parse(time.RFC3339, end.text)
		if err != nil {
			return s, fmt.Errorf("%s is %q: give a time such as 2025-11-25T17:00:00Z", end.flag, end.text)
		}
		*end.at = at.UTC()
	}
	if s.seconds() < 1 {
		return s, fmt.Errorf("-to is %s, -from is %s: give a later -to", to, from)
	}
	return s, nil
}

func (s span) seconds() float64 { return s.to.Sub(s.from).Seconds() }

// mostPoints is the limit for the points of a line: nobody sees more than about one for each millimetre.
const mostPoints = 150

// step is the time between two points of a line, in whole seconds.
func (s span) step() time.Duration {
	step := time.Second
	for s.to.Sub(s.from)/step >= mostPoints {
		step += time.Second
	}
	return step
}
