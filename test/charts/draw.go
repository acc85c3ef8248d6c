package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"strings"
	"time"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/font/liberation"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Sizes in points.
const (
	gridColumns = 24
	gridRow     = 27
	pageWidth   = 1200
	stackWidth  = 900 // of a stacked page
	pageMargin  = 14
	headHeight  = 46
	panelGap    = 8
	panelInset  = 8
	titleHeight = 17
	legendLine  = 13
	swatch      = 14 // the sample of a line in a legend
	axisLeft    = 62 // for the labels of values: the same in all panels, so that their times are aligned
	axisRight   = 14
	axisBottom  = 15
	tickEvery   = 62 // smallest width for a time's label
)

// palette has colors that differ on white, also for most people who see few colors.
var palette = []color.Color{
	rgb(0x1f6fb4), rgb(0xd95f02), rgb(0x1b8a4b), rgb(0x8e44ad), rgb(0xc0392b),
	rgb(0x0e8c9c), rgb(0x9a6b00), rgb(0xc2378a), rgb(0x5a6570), rgb(0x5b5bd6),
}

// namedColors are Grafana's names, in shades that are dark enough for white.
var namedColors = map[string]color.Color{
	"green": rgb(0x1b8a4b), "orange": rgb(0xd95f02), "red": rgb(0xc0392b),
	"yellow": rgb(0x9a6b00), "blue": rgb(0x1f6fb4), "purple": rgb(0x8e44ad),
}

var (
	ink   = rgb(0x1d232a)
	faint = rgb(0x5f6871)
	rule  = rgb(0xe3e6e9)
	frame = rgb(0xc4c9ce)
	white = rgb(0xffffff)
)

func rgb(hex uint32) color.Color {
	return color.NRGBA{R: uint8(hex >> 16), G: uint8(hex >> 8), B: uint8(hex), A: 255}
}

func darker(c color.Color) color.Color {
	r, g, b, _ := c.RGBA()
	return color.NRGBA{R: uint8(r >> 8 * 3 / 5), G: uint8(g >> 8 * 3 / 5), B: uint8(b >> 8 * 3 / 5), A: 255}
}

// pencil draws with the origin in the upper left corner, as on the grid.
type pencil struct{ draw.Canvas }

// drawPage returns the page as SVG.
func drawPage(p *page, s span) []byte {
	width, rows := float64(pageWidth), 0
	if p.stacked {
		width = stackWidth
	}
	stats := ""
	for _, panel := range p.panels {
		rows = max(rows, panel.y+panel.h)
		if panel.kind == kindStat {
			stats = "; single numbers are the values at the end"
		}
	}
	height := float64(headHeight + rows*gridRow + pageMargin)
	canvas := vgsvg.New(vg.Length(width), vg.Length(height))
	to := pencil{draw.New(canvas)}
	to.box(0, 0, width, height, white)
	to.write(pageMargin, 22, p.title, style{size: 16, bold: true, color: ink})
	const layout, clock = "2006-01-02 15:04:05", "15:04:05"
	end := s.to.Format(layout)
	if s.from.Format(time.DateOnly) == s.to.Format(time.DateOnly) {
		end = s.to.Format(clock)
	}
	head := fmt.Sprintf("%s to %s UTC, a point every %.0f s%s", s.from.Format(layout), end, s.step().Seconds(), stats)
	to.write(pageMargin, 38, head, style{size: 9.5, color: faint})

	column := (width - 2*pageMargin) / gridColumns
	for i, panel := range p.panels {
		at := area{
			x: pageMargin + float64(panel.x)*column, y: float64(headHeight + panel.y*gridRow),
			w: float64(panel.w) * column, h: float64(panel.h * gridRow),
		}
		switch panel.kind {
		case kindRow:
			to.write(at.x, at.y+18, panel.title, style{size: 13, bold: true, color: ink})
			to.stroke([]vg.Point{to.point(at.x, at.y+23), to.point(at.x+at.w, at.y+23)}, frame, 0.8)
		case kindStat:
			to.stat(panel, at.inner())
		default:
			to.timeSeries(panel, at.inner(), s, p.stacked, !p.stacked || i == len(p.panels)-1)
		}
	}
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		panic(err) // a buffer takes everything
	}
	return slim(out.Bytes())
}

// slim removes default values, and adds fonts of the same widths for readers without the first one.
func slim(svg []byte) []byte {
	for _, rewrite := range [][2]string{
		{"font-family:Liberation Sans;", "font-family:Liberation Sans,Arial,Helvetica,sans-serif;"},
		{"font-variant:none;", ""}, {"font-variant:normal;", ""},
		{"font-weight:normal;", ""}, {"font-style:normal;", ""},
	} {
		svg = bytes.ReplaceAll(svg, []byte(rewrite[0]), []byte(rewrite[1]))
	}
	return svg
}

// area is a part of the page.
type area struct{ x, y, w, h float64 }

// inner leaves a gap to the next panel.
func (a area) inner() area {
	return area{a.x + panelGap/2, a.y + panelGap/2, a.w - panelGap, a.h - panelGap}
}

// stat writes the numbers of a panel side by side, with their names if there are several.
func (to pencil) stat(p *panel, at area) {
	to.outline(at)
	to.title(p, at)
	var numbers []line
	for _, l := range p.lines {
		numbers = append(numbers, line{name: l.name, points: l.points[len(l.points)-1:]})
	}
	middle := at.y + titleHeight + (at.h-titleHeight)/2
	if len(numbers) == 0 {
		nothing := style{size: 14, color: faint, centered: true, within: at.w - 2*panelInset}
		to.write(at.x+at.w/2, middle+8, p.nothing(), nothing)
		return
	}
	const most = 4
	shown := numbers[:min(len(numbers), most)]
	each := (at.w - 2*panelInset) / float64(len(shown))
	for i, number := range shown {
		x, y := at.x+panelInset+(float64(i)+0.5)*each, middle+10
		value := number.points[0].value
		if len(shown) > 1 {
			y = middle + 2
			to.write(x, y+20, number.name, style{size: 9, color: faint, centered: true, within: each - 4})
		}
		text := scaleOf(p.unit, math.Abs(value)).format(value, p.decimals)
		to.write(x, y, text, style{size: 24, bold: true, color: ink, centered: true, within: each - 4})
	}
	if left := len(numbers) - len(shown); left > 0 {
		more := fmt.Sprintf("and %d more", left)
		to.write(at.x+at.w-panelInset-50, at.y+at.h-4, more, style{size: 9, color: faint})
	}
}

// nothing is the text of a panel without data.
func (p *panel) nothing() string {
	if p.noValue != "" {
		return p.noValue
	}
	return "no data"
}

func (to pencil) title(p *panel, at area) {
	to.write(at.x+panelInset, at.y+14, p.title, style{size: 11, bold: true, color: ink, within: at.w - 2*panelInset})
}

func (to pencil) outline(at area) {
	right, bottom := at.x+at.w, at.y+at.h
	to.stroke([]vg.Point{
		to.point(at.x, at.y), to.point(right, at.y), to.point(right, bottom), to.point(at.x, bottom), to.point(at.x, at.y),
	}, rule, 0.8)
}

// point converts a place on the page to one on the canvas, which has its origin at the bottom.
func (to pencil) point(x, y float64) vg.Point {
	return vg.Point{X: vg.Length(x), Y: to.Max.Y - vg.Length(y)}
}

func (to pencil) box(x, y, w, h float64, fill color.Color) {
	to.FillPolygon(fill, []vg.Point{to.point(x, y), to.point(x+w, y), to.point(x+w, y+h), to.point(x, y+h)})
}

func (to pencil) stroke(points []vg.Point, ink color.Color, width float64, dash ...float64) {
	line := draw.LineStyle{Color: ink, Width: vg.Length(width)}
	for _, length := range dash {
		line.Dashes = append(line.Dashes, vg.Length(length))
	}
	to.StrokeLines(line, points)
}

// style is the style of a text.
type style struct {
	size          float64
	bold          bool
	color         color.Color
	centered, end bool    // where x is in the text; by default at its beginning
	within        float64 // width to which a text is cut; 0 for any width
}

var fonts = font.NewCache(liberation.Collection())

func (s style) text() text.Style {
	f := font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Length(s.size)}
	if s.bold {
		f.Weight = xfont.WeightBold
	}
	made := text.Style{Color: s.color, Font: f, Handler: text.Plain{Fonts: fonts}}
	switch {
	case s.centered:
		made.XAlign = text.XCenter
	case s.end:
		made.XAlign = text.XRight
	}
	return made
}

func (s style) width(words string) float64 { return s.text().Width(words).Points() }

// cut shortens a text that is too wide, and ends it with three dots.
func (s style) cut(words string) string {
	if s.within <= 0 || s.width(words) <= s.within {
		return words
	}
	letters := []rune(words)
	for len(letters) > 1 && s.width(string(letters)+"…") > s.within {
		letters = letters[:len(letters)-1]
	}
	return string(letters) + "…"
}

// write writes a line of text with its baseline at y.
func (to pencil) write(x, y float64, words string, s style) {
	words = strings.Map(func(letter rune) rune { // XML allows no control characters
		if letter < ' ' {
			return ' '
		}
		return letter
	}, words)
	if words = s.cut(words); words != "" {
		to.FillText(s.text(), to.point(x, y), words)
	}
}
