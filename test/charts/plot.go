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

// timeSeries draws a panel's lines with their legend and axes.
func (to pencil) timeSeries(p *panel, at area, s span, sinceStart, labelTimes bool) {
	to.outline(at)
	to.title(p, at)
	colors := lineColors(p)
	top := at.y + titleHeight + to.legend(p, colors, area{at.x + panelInset, at.y + titleHeight, at.w - 2*panelInset, at.h})
	bottom := at.y + at.h - panelInset
	if labelTimes {
		bottom -= axisBottom - panelInset/2
		if sinceStart {
			bottom -= axisBottom
		}
	}
	plot := area{at.x + axisLeft, top + 8, at.w - axisLeft - axisRight, bottom - top - 8}

	times := timeAxis(s, sinceStart, int(plot.w/tickEvery))
	values, whole := p.values(s)
	ys := valueAxis(slices.Min(values), max(slices.Max(values), p.highest), p.unit, whole, max(2, int(plot.h/24)))
	x := func(seconds float64) float64 { return plot.x + seconds/times.high*plot.w }
	y := func(value float64) float64 { return plot.y + plot.h - (value-ys.low)/(ys.high-ys.low)*plot.h }

	small := style{size: 8.5, color: faint}
	for _, t := range times.ticks {
		to.stroke([]vg.Point{to.point(x(t.at), plot.y), to.point(x(t.at), plot.y+plot.h)}, rule, 0.5)
		if labelTimes {
			label := small
			label.centered = true
			to.write(x(t.at), plot.y+plot.h+12.5, t.label, label)
		}
	}
	if labelTimes && sinceStart {
		to.write(plot.x+plot.w/2, plot.y+plot.h+12+axisBottom, "seconds since "+s.from.Format("2006-01-02 15:04:05")+" UTC", style{size: 9, color: faint, centered: true})
	}
	base := func() {
		to.stroke([]vg.Point{to.point(plot.x, plot.y), to.point(plot.x, plot.y+plot.h), to.point(plot.x+plot.w, plot.y+plot.h)}, frame, 0.8)
	}
	if len(p.lines) == 0 {
		base()
		to.write(plot.x+plot.w/2, plot.y+plot.h/2+4, p.nothing(), style{size: 13, color: faint, centered: true, within: plot.w})
		return
	}
	for _, t := range ys.ticks {
		to.stroke([]vg.Point{to.point(plot.x, y(t.at)), to.point(plot.x+plot.w, y(t.at))}, rule, 0.5)
		label := small
		label.end = true
		to.write(plot.x-5, y(t.at)+3, t.label, label)
	}
	base()

	inside := pencil{draw.Canvas{Canvas: to.Canvas, Rectangle: vg.Rectangle{Min: to.point(plot.x, plot.y+plot.h), Max: to.point(plot.x+plot.w, plot.y)}}}
	for _, dashed := range []bool{false, true} { // above the solid ones
		for i, l := range p.lines {
			if (len(l.dash) > 0) != dashed {
				continue
			}
			for _, piece := range l.pieces() {
				if p.stairs {
					piece = stairs(piece)
				}
				path := make([]vg.Point, len(piece))
				for n, point := range piece {
					path[n] = to.point(x(point.at), y(point.value))
				}
				for _, seen := range inside.ClipLinesXY(path) {
					to.stroke(seen, colors[i], 1.4, l.dash...)
				}
				if len(path) == 1 && piece[0].at >= 0 && piece[0].at <= times.high { // between two gaps
					to.dot(path[0], colors[i])
				}
			}
		}
	}
}

// values that the axis must hold, and whether all of them are whole numbers.
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

// pieces of a line between its gaps, without the points that lie between two of the same value: they say nothing and take room in the file.
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

// stairs go sideways before they go up or down.
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

// lineColors are the panel's own, then the palette's others. A dashed line has that of the solid line with the same labels, darker, for one may
// lie on the other.
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

// solid line that a dashed one belongs to, or -1.
func (p *panel) solid(dashed line) int {
	if len(dashed.dash) == 0 || dashed.labels == "" {
		return -1
	}
	return slices.IndexFunc(p.lines, func(l line) bool { return len(l.dash) == 0 && l.labels == dashed.labels })
}

// legendLines at most; who has more lines to name than fit is told how many.
const legendLines = 3

// legend names the lines, and what gave none. It returns its height.
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
		width := words.width(e.words)*1.1 + 10 // who has other fonts needs more
		if e.line >= 0 {
			width += swatch + 4
		}
		more := fmt.Sprintf("and %d more", len(entries)-i)
		wraps := x > 0 && x+width > at.w
		// On the last line an entry leaves room for the words after it, unless it is the last.
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
			to.stroke([]vg.Point{to.point(at.x+x, foot-3), to.point(at.x+x+swatch, foot-3)}, colors[e.line], 2, p.lines[e.line].swatchDash()...)
			to.write(at.x+x+swatch+4, foot, e.words, words)
		}
		x += width
	}
	if len(entries) == 0 {
		return 0
	}
	return float64(row+1) * legendLine
}

// swatchDash shows a line's dashes on the little room of a legend.
func (l line) swatchDash() []float64 {
	if len(l.dash) == 0 {
		return nil
	}
	if l.dash[0] <= 3 {
		return []float64{2, 2}
	}
	return []float64{5, 3}
}
