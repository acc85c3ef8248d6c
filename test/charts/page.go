package main

import (
	"encoding/json"
	"fmt"
	"image/color"
	"os"
	"strings"
)

// page is a drawing: panels on a grid of 24 columns, as in Grafana.
type page struct {
	title  string
	panels []*panel
	// stacked pages have their panels below each other with one time axis, in seconds since the start. Other pages show
	// the time of day in each panel.
	stacked bool
}

// The kinds of panels, by Grafana's names.
const (
	kindRow        = "row"
	kindStat       = "stat"
	kindTimeSeries = "timeseries"
)

type panel struct {
	kind, title, unit string
	x, y, w, h        int // on the grid, y downwards
	targets           []target

	highest  float64                // smallest upper end of the value axis; 0 lets the data decide
	stairs   bool                   // a value holds until the next one, as with counts
	noValue  string                 // the text of a stat without a number
	decimals *int                   // of a stat
	colors   map[string]color.Color // by a line's name; other lines get colors of the palette

	lines   []line
	missing []string // names of the targets without a line, if other targets have one
}

// target is a source of lines for a panel: a query, or a series of the CSV file.
type target struct {
	expr, csv string
	legend    string    // with {{label}} for a label's value
	dash      []float64 // lengths of dashes and gaps; empty for a solid line
}

// name returns the name of a target without a line, whose labels are therefore unknown.
func (t target) name() string {
	if name := strings.Join(strings.Fields(labelReference.ReplaceAllString(t.legend, "")), " "); name != "" {
		return name
	}
	return t.expr + t.csv
}

type line struct {
	name   string
	labels string // the same for lines about the same thing, such as a model's use and its limit
	points []point
	gap    float64 // seconds; with more than this between two points, nothing was measured in between
	dash   []float64
}

// point is a value at a time in seconds since the start.
type point struct{ at, value float64 }

// readChart reads a page whose panels have the full width and are below each other.
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
		to := &panel{
			kind: kindTimeSeries, title: from.Title, unit: from.Unit, y: len(p.panels) * 6, w: gridColumns, h: 6,
		}
		for _, t := range from.Targets {
			if (t.Expr == "") == (t.CSV == "") {
				return nil, fmt.Errorf("panel %q of %s: a target needs either an expr or a csv", from.Title, file)
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
	p.panels[len(p.panels)-1].h++ // for the time axis
	return p, nil
}

func readJSON(file string, into any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s does not have the expected JSON: %w", file, err)
	}
	return nil
}
