package main

import (
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// readData reads the series of a CSV file with the columns time, series and value. The first line may be a header with
// these names.
func readData(file string, s span) (map[string][]point, error) {
	opened, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	reader := csv.NewReader(opened)
	reader.FieldsPerRecord = 3
	series := map[string][]point{}
	for number := 1; ; number++ {
		row, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if number == 1 && row[0] == "time" {
			continue
		}
		at, err := time.Parse(time.RFC3339, row[0])
		if err != nil {
			return nil, fmt.Errorf("%s, row %d: the time %q is not like 2025-11-25T17:00:00.5Z", file, number, row[0])
		}
		value, err := strconv.ParseFloat(row[2], 64)
		if err != nil {
			return nil, fmt.Errorf("%s, row %d: the value %q of %s is not a number", file, number, row[2], row[1])
		}
		series[row[1]] = append(series[row[1]], point{at.Sub(s.from).Seconds(), value})
	}
	for _, points := range series {
		slices.SortStableFunc(points, func(a, b point) int {
			return cmp.Compare(a.at, b.at)
		})
	}
	return series, nil
}

// fill queries the lines of every panel.
func fill(
	ctx context.Context, p *page, s span, server *prometheus, recorded map[string][]point, notes io.Writer,
) error {
	for _, panel := range p.panels {
		for _, target := range panel.targets {
			found, err := target.lines(ctx, panel.kind, s, server, recorded, notes)
			if err != nil {
				return fmt.Errorf("panel %q: %w", panel.title, err)
			}
			if len(found) == 0 {
				panel.missing = append(panel.missing, target.name())
			}
			panel.lines = append(panel.lines, found...)
		}
	}
	return nil
}

// lines returns the lines of a target that have a number in the drawn span.
func (t target) lines(
	ctx context.Context, kind string, s span, server *prometheus, recorded map[string][]point, notes io.Writer,
) ([]line, error) {
	var lines []line
	if t.csv != "" {
		points, ok := recorded[t.csv]
		if !ok {
			known := strings.Join(slices.Sorted(maps.Keys(recorded)), ", ")
			return nil, fmt.Errorf("the file of -data has no series %q: use one of %s", t.csv, known)
		}
		lines = []line{{name: t.legend, points: points, gap: math.Inf(1)}}
	} else {
		// With a rate over less than a step, the line would miss what happens between two points.
		window := fmt.Sprintf("%.0fs", max(time.Minute, s.step()).Seconds())
		expr := strings.ReplaceAll(t.expr, rateInterval, window)
		answer, err := server.ask(ctx, expr, s, kind == kindStat)
		if err != nil {
			return nil, err
		}
		for _, warning := range answer.warnings {
			fmt.Fprintf(notes, "warning: %s: %s\n", expr, warning)
		}
		for _, series := range answer.series {
			lines = append(lines, line{
				name: series.name(t.legend), labels: series.labels(),
				points: series.points(s), gap: 1.5 * s.step().Seconds(),
			})
		}
	}
	lines = slices.DeleteFunc(lines, func(l line) bool {
		return !slices.ContainsFunc(l.points, func(p point) bool { return p.at >= 0 && p.at <= s.seconds() })
	})
	for i := range lines {
		lines[i].dash = t.dash
	}
	return lines, nil
}
