// Command charts draws what a Prometheus measured between two points in time into one SVG: a whole Grafana dashboard (-dashboard), or a few
// panels under each other with a common time axis (-chart), some of whose lines may come from a CSV file (-data). Nothing is smoothed, filled
// in or left out: a gap in the data is a gap in the line, and a query without an answer says so in its panel. A module of its own, so that the
// program does not depend on a drawing library.
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

// run writes the file that the flags ask for, or none. Warnings go to notes.
func run(ctx context.Context, args []string, notes io.Writer) error {
	flags := flag.NewFlagSet("charts", flag.ContinueOnError)
	flags.SetOutput(notes)
	server := flags.String("prometheus", "", "`URL` of the Prometheus")
	from := flags.String("from", "", "first `time`, such as 2025-11-25T17:00:00Z")
	to := flags.String("to", "", "last `time`")
	dashboard := flags.String("dashboard", "", "Grafana dashboard, a `file` of JSON")
	chart := flags.String("chart", "", `panels under each other, a `+"`file`"+` of JSON: {"title", "panels": [{"title", "unit", "targets": [{"expr" or "csv", "legendFormat"}]}]}`)
	data := flags.String("data", "", "lines for -chart, a CSV `file` with the columns time,series,value; a target names one by its csv")
	out := flags.String("out", "", "`file` to write, an SVG")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: the command takes flags only, see -help", flags.Arg(0))
	}
	if *server == "" || *out == "" {
		return errors.New("-prometheus and -out are needed, see -help")
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
		return errors.New("-data goes with -chart: a dashboard shows what Prometheus has")
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

// span is the time that is drawn.
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

// mostPoints of a line: more than about one for each millimetre nobody sees.
const mostPoints = 150

// step between two points of a line, whole seconds.
func (s span) step() time.Duration {
	step := time.Second
	for s.to.Sub(s.from)/step >= mostPoints {
		step += time.Second
	}
	return step
}
