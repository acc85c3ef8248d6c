package main

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// scale is how numbers of a unit are written: divided by factor, followed by suffix.
type scale struct {
	factor float64
	suffix string
}

// scaleOf returns the scale of a unit, by Grafana's names, for numbers up to highest.
func scaleOf(unit string, highest float64) scale {
	switch unit {
	case "", "short", "none":
		return scale{1, ""}
	case "percentunit":
		return scale{0.01, " %"}
	case "percent":
		return scale{1, " %"}
	case "reqps":
		return scale{1, " req/s"}
	case "reqpm":
		return scale{1, " req/min"}
	case "s":
		return fitting(highest, scale{1e-3, " ms"}, scale{1, " s"}, scale{60, " min"}, scale{3600, " h"})
	case "bytes":
		return fitting(highest, scale{1, " B"}, scale{1 << 10, " KiB"}, scale{1 << 20, " MiB"},
			scale{1 << 30, " GiB"}, scale{1 << 40, " TiB"})
	default:
		return scale{1, " " + unit} // as Grafana does
	}
}

// fitting returns the largest scale in which highest is not much less than 1. Three minutes are still seconds.
func fitting(highest float64, scales ...scale) scale {
	best := scales[0]
	for _, s := range scales[1:] {
		least := s.factor
		if s.factor >= 60 && s.suffix != "" && s.factor <= 3600 {
			least *= 3
		}
		if highest >= least {
			best = s
		}
	}
	return best
}

// format writes a number with three digits, or with the given number of decimals.
func (s scale) format(value float64, decimals *int) string {
	scaled := value / s.factor
	if decimals != nil {
		return strconv.FormatFloat(scaled, 'f', *decimals, 64) + s.suffix
	}
	places := 0
	if scaled != 0 {
		places = min(6, max(0, 2-int(math.Floor(math.Log10(math.Abs(scaled))))))
	}
	return trimZeros(strconv.FormatFloat(scaled, 'f', places, 64)) + s.suffix
}

func trimZeros(number string) string {
	if strings.Contains(number, ".") {
		number = strings.TrimRight(strings.TrimRight(number, "0"), ".")
	}
	return number
}

// tick is a labelled place on an axis.
type tick struct {
	at    float64
	label string
}

// axis is a range of numbers with ticks.
type axis struct {
	low, high float64
	ticks     []tick
}

// valueAxis begins at 0, or below if the data do, and ends just above the data. Whole numbers get no ticks between
// them.
func valueAxis(low, high float64, unit string, whole bool, ticks int) axis {
	low = min(low, 0)
	if high <= low {
		high = low + 1
	}
	s := scaleOf(unit, max(high, -low))
	step := niceStep((high - low) / s.factor / float64(ticks))
	if whole && s.factor == 1 {
		step = math.Ceil(max(step, 1)) // 2.5 would be one
	}
	first, last := math.Floor(low/s.factor/step+1e-9), math.Ceil(high/s.factor/step-1e-9)
	a := axis{low: first * step * s.factor, high: last * step * s.factor}
	places := max(0, -int(math.Floor(math.Log10(step)+1e-9)))
	if math.Abs(step*math.Pow10(places)-math.Round(step*math.Pow10(places))) > 1e-6 {
		places++ // a quarter of a power of ten
	}
	for i := first; i <= last; i++ {
		a.ticks = append(a.ticks, tick{i * step * s.factor, strconv.FormatFloat(i*step, 'f', places, 64) + s.suffix})
	}
	return a
}

// niceStep rounds up to 1, 2, 2.5, 5 or 10 times a power of ten.
func niceStep(least float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(least)))
	for _, n := range []float64{1, 2, 2.5, 5} {
		if n*power >= least*(1-1e-9) {
			return n * power
		}
	}
	return 10 * power
}

// timeSteps are the steps in which people count time, in seconds.
var timeSteps = []float64{
	1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600,
	7200, 10800, 21600, 43200, 86400, 172800, 604800,
}

// timeAxis covers a span in seconds since its start, with at most so many ticks. Their labels are these seconds, or the
// time of day.
func timeAxis(s span, sinceStart bool, ticks int) axis {
	step := timeSteps[len(timeSteps)-1]
	for _, step = range timeSteps {
		if s.seconds()/step <= float64(ticks) {
			break
		}
	}
	a := axis{high: s.seconds()}
	if sinceStart {
		for at := 0.0; at <= a.high; at += step {
			a.ticks = append(a.ticks, tick{at, strconv.FormatFloat(at, 'f', 0, 64)})
		}
		return a
	}
	layout := "15:04"
	switch {
	case step < 60:
		layout = "15:04:05"
	case step >= 86400:
		layout = "Jan 2"
	}
	every := time.Duration(step) * time.Second
	for at := s.from.Truncate(every); !at.After(s.to); at = at.Add(every) {
		if !at.Before(s.from) {
			a.ticks = append(a.ticks, tick{at.Sub(s.from).Seconds(), at.Format(layout)})
		}
	}
	return a
}
