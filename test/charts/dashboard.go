package main

import (
	"encoding/json"
	"fmt"
	"image/color"
	"regexp"
)

// grafanaPanel is the part of Grafana's panel JSON that this program draws.
type grafanaPanel struct {
	Type, Title string
	GridPos     struct{ X, Y, W, H int }
	FieldConfig struct {
		Defaults struct {
			Unit     string
			Max      float64
			NoValue  string
			Decimals *int
			Custom   struct{ LineInterpolation string }
		}
		Overrides []struct {
			Matcher    struct{ ID, Options string }
			Properties []struct {
				ID    string
				Value json.RawMessage
			}
		}
	}
	Targets []struct{ RefID, Expr, LegendFormat string }
	Panels  []grafanaPanel // of a row that is closed
}

// readDashboard reads a page from the JSON of a Grafana dashboard.
func readDashboard(file string) (*page, error) {
	var dashboard struct {
		Title  string
		Panels []grafanaPanel
	}
	if err := readJSON(file, &dashboard); err != nil {
		return nil, err
	}
	if len(dashboard.Panels) == 0 {
		return nil, fmt.Errorf("%s has no panels", file)
	}
	p := &page{title: dashboard.Title}
	for _, from := range dashboard.Panels {
		if len(from.Panels) > 0 {
			return nil, fmt.Errorf("row %q of %s is closed: save the dashboard with its rows open", from.Title, file)
		}
		to, err := from.panel()
		if err != nil {
			return nil, fmt.Errorf("panel %q of %s: %w", from.Title, file, err)
		}
		p.panels = append(p.panels, to)
	}
	return p, nil
}

func (g grafanaPanel) panel() (*panel, error) {
	if g.Type != kindRow && g.Type != kindStat && g.Type != kindTimeSeries {
		return nil, fmt.Errorf("its type is %s: only %s, %s and %s are supported",
			g.Type, kindRow, kindStat, kindTimeSeries)
	}
	if at := g.GridPos; at.X < 0 || at.Y < 0 || at.W < 1 || at.H < 1 || at.X+at.W > gridColumns {
		return nil, fmt.Errorf("its gridPos %+v is not on the grid of %d columns", at, gridColumns)
	}
	defaults := g.FieldConfig.Defaults
	p := &panel{
		kind: g.Type, title: g.Title, unit: defaults.Unit,
		x: g.GridPos.X, y: g.GridPos.Y, w: g.GridPos.W, h: g.GridPos.H,
		highest: defaults.Max, stairs: defaults.Custom.LineInterpolation == "stepAfter",
		noValue: defaults.NoValue, decimals: defaults.Decimals,
		colors: map[string]color.Color{},
	}
	dashes := map[string][]float64{}
	for _, override := range g.FieldConfig.Overrides {
		for _, property := range override.Properties {
			var value struct {
				FixedColor string
				Fill       string
				Dash       []float64
			}
			switch override.Matcher.ID + " " + property.ID {
			case "byName color":
				if err := json.Unmarshal(property.Value, &value); err != nil {
					return nil, fmt.Errorf("the color of %s: %w", override.Matcher.Options, err)
				}
				if known, ok := namedColors[value.FixedColor]; ok {
					p.colors[override.Matcher.Options] = known
				}
			case "byFrameRefID custom.lineStyle":
				if err := json.Unmarshal(property.Value, &value); err != nil {
					return nil, fmt.Errorf("the line style of %s: %w", override.Matcher.Options, err)
				}
				if value.Fill == "dash" && len(value.Dash) > 0 {
					dashes[override.Matcher.Options] = value.Dash
				}
			}
		}
	}
	for _, t := range g.Targets {
		expr, err := fixVariables(t.Expr)
		if err != nil {
			return nil, err
		}
		p.targets = append(p.targets, target{expr: expr, legend: t.LegendFormat, dash: dashes[t.RefID]})
	}
	return p, nil
}

var (
	variable       = regexp.MustCompile(`\$(?:\{([a-zA-Z_]\w*)(?::\w+)?\}|([a-zA-Z_]\w*))`)
	labelReference = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)
)

// rateInterval stands for $__rate_interval until fill knows the step.
const rateInterval = "$__rate_interval"

// fixVariables replaces every variable of a dashboard with its value "All".
func fixVariables(expr string) (string, error) {
	var unknown string
	fixed := variable.ReplaceAllStringFunc(expr, func(found string) string {
		parts := variable.FindStringSubmatch(found)
		switch name := parts[1] + parts[2]; name {
		case "namespace", "pool", "model":
			return ".+"
		case "__rate_interval":
			return rateInterval
		default:
			unknown = name
			return found
		}
	})
	if unknown != "" {
		return "", fmt.Errorf("the query %s has the unknown variable %s: use namespace, pool, model or __rate_interval",
			expr, unknown)
	}
	return fixed, nil
}
