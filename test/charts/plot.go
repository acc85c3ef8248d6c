package main

import (
	"fmt"
	"image/color"
	"maps"
	"math"
	"slices"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// timeSeries draws a panel's lines with their legend and axes. It does not use plot.Plot: there an axis takes as much
// room as its labels need, so panels below each other would not have their times aligned, and its tickers know neither
// units such as GiB nor round times of day, so that ticks and labels would be ours in any case.
func (to pencil) timeSeries(p *panel, at area, s span, sinceStart, labelTimes bool) {
	to.outline(at)
	to.title(p, at)
	colors := lineColors(p)
	legend := area{at.x + panelInset, at.y + titleHeight, at.w - 2*panelInset, at.h}
	top := legend.y + to.legend(p, colors, legend) + 8
	bottom := at.y + at.h - panelInset
	if labelTimes {
		bottom -= axisBottom - panelInset/2
		if sinceStart {
			bottom -= axisBottom
		}
	}
	c := chart{pencil: to, area: area{at.x + axisLeft, top, at.w - axisLeft - axisRight, bottom - top}}
	c.times = timeAxis(s, sinceStart, int(c.w/tickEvery))
	values, whole := p.values(s)
	highest := max(slices.Max(values), p.highest)
	c.values = valueAxis(slices.Min(values), highest, p.unit, whole, max(2, int(c.h/24)))

	c.drawTimes(labelTimes)
	middle := c.x + c.w/2
	if labelTimes && sinceStart {
		words := "seconds since " + s.from.Format("2006-01-02 15:04:05") + " UTC"
		to.write(middle, c.y+c.h+12+axisBottom, words, style{size: 9, color: faint, centered: true})
	}
	if len(p.lines) == 0 {
		c.drawBase()
		nothing := style{size: 13, color: faint, centered: true, within: c.w}
		to.write(middle, c.y+c.h/2+4, p.nothing(), nothing)
		return
	}
	c.drawValues()
	c.drawBase()
	c.drawLines(p, colors)
}

// chart is the area between the axes of a panel.
type chart struct {
	pencil
	area
	times, values axis
}

// place converts a point to a place on the canvas.
func (c chart) place(p point) vg.Point {
	share := (p.value - c.values.low) / (c.values.high - c.values.low)
	return c.point(c.x+p.at/c.times.high*c.w, c.y+c.h-share*c.h)
}

var tickLabel = style{size: 8.5, color: faint}

func (c chart) drawTimes(label bool) {
	words := tickLabel
	words.centered = true
	for _, t := range c.times.ticks {
		x := c.x + t.at/c.times.high*c.w
		c.stroke([]vg.Point{c.point(x, c.y), c.point(x, c.y+c.h)}, rule, 0.5)
		if label {
			c.write(x, c.y+c.h+12.5, t.label, words)
		}
	}
}

func (c chart) drawValues() {
	words := tickLabel
	words.end = true
	for _, t := range c.values.ticks {
		y := c.y + c.h - (t.at-c.values.low)/(c.values.high-c.values.low)*c.h
		c.stroke([]vg.Point{c.point(c.x, y), c.point(c.x+c.w, y)}, rule, 0.5)
		c.write(c.x-5, y+3, t.label, words)
	}
}

// drawBase draws the lines of the two axes.
func (c chart) drawBase() {
	corner := c.point(c.x, c.y+c.h)
	c.stroke([]vg.Point{c.point(c.x, c.y), corner, c.point(c.x+c.w, c.y+c.h)}, frame, 0.8)
}

// drawLines draws the dashed lines above the solid ones.
func (c chart) drawLines(p *panel, colors []color.Color) {
	for _, dashed := range []bool{false, true} {
		for i, l := range p.lines {
			if (len(l.dash) > 0) != dashed {
				continue
			}
			for _, piece := range l.pieces() {
				if p.stairs {
					piece = stairs(piece)
				}
				c.drawPiece(piece, colors[i], l.dash)
			}
		}
	}
}

func (c chart) drawPiece(piece []point, ink color.Color, dash []float64) {
	path := make([]vg.Point, len(piece))
	for n, point := range piece {
		path[n] = c.place(point)
	}
	inside := draw.Canvas{Canvas: c.Canvas, Rectangle: vg.Rectangle{
		Min: c.point(c.x, c.y+c.h), Max: c.point(c.x+c.w, c.y),
	}}
	for _, seen := range inside.ClipLinesXY(path) {
		c.stroke(seen, ink, 1.4, dash...)
	}
	if len(path) == 1 && piece[0].at >= 0 && piece[0].at <= c.times.high { // between two gaps
		c.dot(path[0], ink)
	}
}

// values returns the values that the axis must include, and whether all of them are whole numbers.
func (p *panel) values(s span) (values []float64, whole bool) {
	values, whole = []float64{0}, true
	for _, l := range p.lines {
		for _, point := range l.points {
			if point.at >= 0 && point.at <= s.seconds() {
				values = append(values, point.value)
				whole = whole && point.value == math.Trunc(point.value)
			}
		}
	}
	return values, whole
}

// pieces splits a line at its gaps. It drops points between two points of the same value: they add nothing to the
// drawing and take room in the file.
func (l line) pieces() [][]point {
	var pieces [][]point
	var piece []point
	for i, point := range l.points {
		switch {
		case i > 0 && point.at-l.points[i-1].at > l.gap:
			pieces, piece = append(pieces, piece), nil
		case len(piece) > 1 && piece[len(piece)-1].value == point.value && piece[len(piece)-2].value == point.value:
			piece = piece[:len(piece)-1]
		}
		piece = append(piece, point)
	}
	return append(pieces, piece)
}

// stairs makes a line go sideways before it goes up or down.
func stairs(piece []point) []point {
	steps := piece[:1:1]
	for i, next := range piece[1:] {
		if before := piece[i]; before.value != next.value {
			steps = append(steps, point{next.at, before.value})
		}
		steps = append(steps, next)
	}
	return steps
}

func (to pencil) dot(at vg.Point, fill color.Color) {
	var circle vg.Path
	circle.Move(vg.Point{X: at.X + 1.8, Y: at.Y})
	circle.Arc(at, 1.8, 0, 2*math.Pi)
	circle.Close()
	to.SetColor(fill)
	to.Fill(circle)
}

// lineColors returns a color for each line: the panel's own, or one of the palette's others. A dashed line gets a
// darker shade of the solid line with the same labels, because one may cover the other.
func lineColors(p *panel) []color.Color {
	var free []color.Color
	for _, c := range palette {
		if !slices.Contains(slices.Collect(maps.Values(p.colors)), c) {
			free = append(free, c)
		}
	}
	colors := make([]color.Color, len(p.lines))
	next := 0
	for i, l := range p.lines {
		if own, ok := p.colors[l.name]; ok {
			colors[i] = own
		} else if p.solid(l) < 0 {
			colors[i] = free[next%len(free)]
			next++
		}
	}
	for i, l := range p.lines {
		if colors[i] == nil {
			colors[i] = darker(colors[p.solid(l)])
		}
	}
	return colors
}

// solid returns the index of the solid line that a dashed line belongs to, or -1.
func (p *panel) solid(dashed line) int {
	if len(dashed.dash) == 0 || dashed.labels == "" {
		return -1
	}
	return slices.IndexFunc(p.lines, func(l line) bool { return len(l.dash) == 0 && l.labels == dashed.labels })
}

// legendLines is the limit for the lines of a legend. Its end says how many names it leaves out.
const legendLines = 3

// legend writes the names of the lines, and of the targets without one. It returns its height.
func (to pencil) legend(p *panel, colors []color.Color, at area) float64 {
	words := style{size: 9, color: ink, within: min(at.w-swatch-8, 330)}
	type entry struct {
		words string
		line  int // -1 for none
	}
	var entries []entry
	for i, l := range p.lines {
		entries = append(entries, entry{words.cut(l.name), i})
	}
	if len(p.lines) > 0 {
		for _, name := range p.missing {
			entries = append(entries, entry{words.cut("no data: " + name), -1})
		}
	}
	x, row := 0.0, 0
	for i, e := range entries {
		width := words.width(e.words)*1.1 + 10 // other fonts may need more room
		if e.line >= 0 {
			width += swatch + 4
		}
		more := fmt.Sprintf("and %d more", len(entries)-i)
		wraps := x > 0 && x+width > at.w
		// On the last row an entry leaves room for the words after it, unless it is the last entry.
		crowded := i < len(entries)-1 && x+width+words.width(more) > at.w
		if row == legendLines-1 && x > 0 && (wraps || crowded) {
			to.write(at.x+x, at.y+float64(row)*legendLine+10, more, style{size: 9, color: faint})
			break
		}
		if wraps {
			x, row = 0, row+1
		}
		foot := at.y + float64(row)*legendLine + 10
		if e.line < 0 {
			to.write(at.x+x, foot, e.words, style{size: 9, color: faint})
		} else {
			sample := []vg.Point{to.point(at.x+x, foot-3), to.point(at.x+x+swatch, foot-3)}
			to.stroke(sample, colors[e.line], 2, p.lines[e.line].swatchDash()...)
			to.write(at.x+x+swatch+4, foot, e.words, words)
		}
		x += width
	}
	if len(entries) == 0 {
		return 0
	}
	return float64(row+1) * legendLine
}

// swatchDash returns a line's dashes for the small sample in a legend.
func (l line) swatchDash() []float64 {
	if len(l.dash) == 0 {
		return nil
	}
	if l.dash[0] <= 3 {
		return []float64{2, 2}
	}
	return []float64{5, 3}
}
