package main

import (
	"encoding/json"
	"fmt"
	"image/color"
	"os"
	"strings"
)

// A page is what is drawn: panels on a grid of 24 columns, as Grafana's.
type page struct {
	title  string
	panels []*panel
	// stacked pages have one panel above the other and one time axis, in seconds since the start. Others show the time of day in each panel.
	stacked bool
}

// Kinds of panels, by Grafana's names.
const (
	kindRow        = "row"
	kindStat       = "stat"
	kindTimeSeries = "timeseries"
)

type panel struct {
	kind, title, unit string
	x, y, w, h        int // on the grid, y downwards
	targets           []target

	highest  float64                // least upper end of the value axis; 0 where the data decide
	stairs   bool                   // values hold until the next one, as counts do
	noValue  string                 // what a stat says instead of a number
	decimals *int                   // of a stat
	colors   map[string]color.Color // by a line's name; the palette has the others

	lines   []line
	missing []string // names of the targets that gave no line, if others did
}

// A target is where lines of a panel come from: a query, or a series of the CSV file.
type target struct {
	expr, csv string
	legend    string    // with {{label}} for a label's value
	dash      []float64 // lengths of dashes and gaps; none for a solid line
}

// name of a target that gave no line, whose labels are therefore unknown.
func (t target) name() string {
	if name := strings.Join(strings.Fields(labelReference.ReplaceAllString(t.legend, "")), " "); name != "" {
		return name
	}
	return t.expr + t.csv
}

type line struct {
	name   string
	labels string // the same for lines of the same thing, such as what a model uses and what it may use
	points []point
	gap    float64 // seconds between two points from which on nothing was measured in between
	dash   []float64
}

// A point is a value at a number of seconds since the start.
type point struct{ at, value float64 }

// readChart reads a page whose panels are all of the width, one under the other.
func readChart(file string) (*page, error) {
	var chart struct {
		Title  string
		Panels []struct {
			Title, Unit string
			Targets     []struct {
				Expr, CSV, LegendFormat string
				Dashed                  bool
			}
		}
	}
	if err := readJSON(file, &chart); err != nil {
		return nil, err
	}
	if len(chart.Panels) == 0 {
		return nil, fmt.Errorf("%s has no panels", file)
	}
	p := &page{title: chart.Title, stacked: true}
	for _, from := range chart.Panels {
		to := &panel{kind: kindTimeSeries, title: from.Title, unit: from.Unit, y: len(p.panels) * 6, w: gridColumns, h: 6}
		for _, t := range from.Targets {
			if (t.Expr == "") == (t.CSV == "") {
				return nil, fmt.Errorf("panel %q of %s: a target has either an expr or a csv", from.Title, file)
			}
			made := target{csv: t.CSV, legend: t.LegendFormat}
			if made.legend == "" {
				made.legend = t.CSV
			}
			if t.Dashed {
				made.dash = []float64{6, 4}
			}
			var err error
			if made.expr, err = fixVariables(t.Expr); err != nil {
				return nil, fmt.Errorf("panel %q of %s: %w", from.Title, file, err)
			}
			to.targets = append(to.targets, made)
		}
		p.panels = append(p.panels, to)
	}
	p.panels[len(p.panels)-1].h++ // it has the time axis
	return p, nil
}

func readJSON(file string, into any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s is not the JSON that is expected: %w", file, err)
	}
	return nil
}
