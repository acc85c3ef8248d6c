package main

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	began = "2025-11-25T17:00:00Z"
	ended = "2025-11-25T17:10:00Z"
)

// start and last are the same times in Unix seconds.
const start, last = 1764090000, 1764090600

// served is a Prometheus that answers each query with its entry in answers (the content of data.result), and records
// the queries.
func served(t *testing.T, answers map[string]string) (address string, asked *[]url.Values) {
	t.Helper()
	asked = &[]url.Values{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		*asked = append(*asked, r.Form)
		kind := map[string]string{"/api/v1/query_range": "matrix", "/api/v1/query": "vector"}[r.URL.Path]
		result, ok := answers[r.Form.Get("query")]
		if kind == "" || !ok {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"status":"error","errorType":"bad_data",`+
				`"error":"invalid parameter \"query\": 1:5: parse error"}`)
			return
		}
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":%q,"result":%s}}`, kind, result)
	}))
	t.Cleanup(server.Close)
	return server.URL, asked
}

// matrix encodes series. Each has its labels as JSON and its values, with a step of 5 s.
func matrix(series ...any) string {
	var texts []string
	for i := 0; i < len(series); i += 2 {
		var values []string
		for n, value := range series[i+1].([]float64) {
			values = append(values, fmt.Sprintf(`[%d,"%g"]`, start+5*n, value))
		}
		texts = append(texts, fmt.Sprintf(`{"metric":%s,"values":[%s]}`, series[i], strings.Join(values, ",")))
	}
	return "[" + strings.Join(texts, ",") + "]"
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// picture is a drawing as its reader sees it.
type picture struct {
	texts []string
	lines map[string]int // pieces of line, by color and dashes, without the frames and rules
	dots  int
	bytes int
}

func (p picture) has(text string) bool {
	for _, t := range p.texts {
		if t == text {
			return true
		}
	}
	return false
}

var (
	strokeOf = regexp.MustCompile(`stroke:(#[0-9A-Fa-f]{6})`)
	dashOf   = regexp.MustCompile(`stroke-dasharray:([0-9.,]+)`)
)

// look reads an SVG, which must be well-formed.
func look(t *testing.T, file string) picture {
	t.Helper()
	opened, err := os.Open(file)
	require.NoError(t, err)
	defer opened.Close()
	info, err := opened.Stat()
	require.NoError(t, err)
	p := picture{lines: map[string]int{}, bytes: int(info.Size())}
	grey := strings.ToUpper(hex(rule) + " " + hex(frame))
	decoder := xml.NewDecoder(opened)
	inText := false
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return p
		}
		require.NoError(t, err)
		switch e := token.(type) {
		case xml.StartElement:
			inText = e.Name.Local == "text"
			var style, path string
			for _, a := range e.Attr {
				if a.Name.Local == "style" {
					style = a.Value
				}
				if a.Name.Local == "d" {
					path = a.Value
				}
			}
			stroke := strokeOf.FindStringSubmatch(style)
			if stroke != nil && !strings.Contains(grey, strings.ToUpper(stroke[1])) {
				key := strings.ToUpper(stroke[1])
				if dash := dashOf.FindStringSubmatch(style); dash != nil {
					key += " " + dash[1]
				}
				p.lines[key]++
			}
			if strings.Contains(path, "A") {
				p.dots++
			}
		case xml.EndElement:
			inText = false
		case xml.CharData:
			if inText {
				p.texts = append(p.texts, string(e))
			}
		}
	}
}

func hex(c interface{ RGBA() (r, g, b, a uint32) }) string {
	r, g, b, _ := c.RGBA()
	return fmt.Sprintf("#%02X%02X%02X", r>>8, g>>8, b>>8)
}

// drawn runs the command for a span of ten minutes.
func drawn(t *testing.T, address string, args ...string) (picture, error) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out.svg")
	var notes strings.Builder
	args = append([]string{"-prometheus", address, "-from", began, "-to", ended, "-out", out}, args...)
	err := run(context.Background(), args, &notes)
	if err != nil {
		assert.NoFileExists(t, out, "a picture despite the error")
		return picture{}, err
	}
	assert.Empty(t, notes.String())
	return look(t, out), nil
}

// board is a dashboard with one row and one panel.
func board(t *testing.T, kind, config string, targets ...string) string {
	return write(t, "board.json", fmt.Sprintf(`{"title":"Board","panels":[
		{"type":"row","title":"A row","gridPos":{"x":0,"y":0,"w":24,"h":1},"panels":[]},
		{"type":%q,"title":"The panel","gridPos":{"x":0,"y":1,"w":12,"h":8},
		 "fieldConfig":{%s},"targets":[%s]}]}`, kind, config, strings.Join(targets, ",")))
}

func TestTwoSeriesAreTwoLinesWithNamesAndUnits(t *testing.T) {
	address, asked := served(t, map[string]string{
		`rate(requests{pool=~".+",model=~".+"}[60s])`: matrix(
			`{"model":"a"}`, []float64{0, 1, 2}, `{"model":"b<c"}`, []float64{5, 6, 5}),
	})
	p, err := drawn(t, address, "-dashboard", board(t, "timeseries", `"defaults":{"unit":"reqps"}`,
		`{"refId":"A","legendFormat":"model {{model}}",
		  "expr":"rate(requests{pool=~\"$pool\",model=~\"${model:regex}\"}[$__rate_interval])"}`))
	require.NoError(t, err)
	for _, text := range []string{
		"Board", "A row", "The panel", "model a", "model b<c", "0 req/s", "6 req/s", "17:00", "17:10",
		"2025-11-25 17:00:00 to 17:10:00 UTC, a point every 5 s",
	} {
		assert.True(t, p.has(text), "%q in %q", text, p.texts)
	}
	assert.False(t, p.has("no data"))
	lines := map[string]int{hex(palette[0]): 2, hex(palette[1]): 2}
	assert.Equal(t, lines, p.lines, "each line, and its sample in the legend")
	require.Len(t, *asked, 1)
	query := (*asked)[0]
	assert.Equal(t, "1764090000 1764090600 5", query.Get("start")+" "+query.Get("end")+" "+query.Get("step"))
}

func TestAQueryWithoutAnswerSaysSo(t *testing.T) {
	numbers := matrix(`{}`, []float64{1, 2})
	nothing := matrix(`{}`, []float64{math.NaN(), math.NaN()})
	before := fmt.Sprintf(`[{"metric":{},"values":[[%d,"1"]]}]`, start-60)
	for name, c := range map[string]struct {
		first, second string
		want, not     string
	}{
		"no series at all":                 {"[]", "[]", "no data", "limit"},
		"only shares of nothing":           {nothing, nothing, "no data", "limit"},
		"only numbers from another time":   {before, before, "no data", "limit"},
		"one of two":                       {numbers, "[]", "no data: limit", "no data"},
		"one of two has shares of nothing": {numbers, nothing, "no data: limit", "no data"},
		"both have numbers":                {numbers, numbers, "limit", "no data: limit"},
	} {
		t.Run(name, func(t *testing.T) {
			address, _ := served(t, map[string]string{"first": c.first, "second": c.second})
			p, err := drawn(t, address, "-dashboard", board(t, "timeseries", "",
				`{"refId":"A","expr":"first","legendFormat":"used"}`,
				`{"refId":"B","expr":"second","legendFormat":"{{team}} limit"}`))
			require.NoError(t, err)
			assert.True(t, p.has(c.want), "%q in %q", c.want, p.texts)
			assert.False(t, p.has(c.not), "%q in %q", c.not, p.texts)
		})
	}
}

func TestErrorsNameWhatIsWrong(t *testing.T) {
	address, _ := served(t, map[string]string{"good": "[]"})
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "<html>", http.StatusNotFound)
	}))
	defer page.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	good := `{"refId":"A","expr":"good"}`
	csv := write(t, "data.csv", "time,series,value\n2025-11-25T17:00:01Z,clients,1\n")
	badRow := write(t, "bad.csv", "2025-11-25T17:00:01Z,clients,many\n")
	dashboard := func(kind, target string) []string { return []string{"-dashboard", board(t, kind, "", target)} }
	chart := func(target string) []string {
		file := write(t, "chart.json", `{"title":"T","panels":[{"title":"P","targets":[`+target+`]}]}`)
		return []string{"-chart", file}
	}
	const series = "timeseries"
	for name, c := range map[string]struct {
		address string
		args    []string
		want    []string
	}{
		"nobody listens": {gone.URL, dashboard(series, good),
			[]string{"no Prometheus answers at " + gone.URL, "connection refused", "-prometheus"}},
		"another server": {page.URL, dashboard(series, good), []string{page.URL, "404 Not Found", "-prometheus"}},
		"a refused query": {address, dashboard(series, `{"expr":"bad("}`),
			[]string{`panel "The panel"`, "bad(", "1:5: parse error"}},
		"a refused number": {address, dashboard("stat", `{"expr":"bad("}`),
			[]string{`panel "The panel"`, "bad(", "1:5: parse error"}},
		"an unknown variable": {address, dashboard(series, `{"expr":"x{a=\"$team\"}"}`),
			[]string{`panel "The panel"`, "unknown variable team"}},
		"another kind": {address, dashboard("gauge", good), []string{`panel "The panel"`, "gauge", "stat"}},
		"no such file": {address, []string{"-dashboard", "missing.json"}, []string{"missing.json"}},
		"not JSON":     {address, []string{"-dashboard", csv}, []string{csv, "JSON"}},
		"neither":      {address, nil, []string{"either -dashboard or -chart"}},
		"both":         {address, []string{"-dashboard", "a", "-chart", "b"}, []string{"either -dashboard or -chart"}},
		"data for a dashboard": {address, []string{"-dashboard", "a", "-data", csv},
			[]string{"-data goes with -chart"}},
		"to before from": {address, []string{"-chart", "a", "-to", began}, []string{"give a later -to"}},
		"not a time": {address, []string{"-chart", "a", "-from", "yesterday"},
			[]string{`-from is "yesterday"`, "2025-11-25T17:00:00Z"}},
		"an unknown series": {address, append(chart(`{"csv":"servers"}`), "-data", csv),
			[]string{`panel "P"`, `no series "servers"`, "clients"}},
		"both sources": {address, chart(`{"csv":"a","expr":"b"}`), []string{`panel "P"`, "either an expr or a csv"}},
		"a bad row": {address, append(chart(`{"csv":"a"}`), "-data", badRow),
			[]string{"bad.csv, row 1", `"many"`}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := drawn(t, c.address, c.args...)
			for _, want := range c.want {
				assert.ErrorContains(t, err, want)
			}
		})
	}
}

func TestAGapInTheDataIsAGapInTheLine(t *testing.T) {
	nan := math.NaN()
	address, _ := served(t, map[string]string{"x": matrix(`{}`, []float64{1, 2, nan, 3, nan, 1, 2})})
	p, err := drawn(t, address, "-dashboard", board(t, "timeseries", "", `{"expr":"x","legendFormat":"x"}`))
	require.NoError(t, err)
	assert.Equal(t, map[string]int{hex(palette[0]): 3}, p.lines, "two pieces, and the sample in the legend")
	assert.Equal(t, 1, p.dots, "a point between two gaps")
}

func TestADashedLineHasTheColorOfItsSolidOne(t *testing.T) {
	address, _ := served(t, map[string]string{
		"used": matrix(`{"__name__":"used","pod":"b"}`, []float64{1, 1}, `{"__name__":"used","pod":"a"}`, []float64{2, 2}),
		"most": matrix(`{"__name__":"most","pod":"a"}`, []float64{4, 4}),
	})
	p, err := drawn(t, address, "-dashboard", board(t, "timeseries",
		`"overrides":[{"matcher":{"id":"byFrameRefID","options":"B"},
		  "properties":[{"id":"custom.lineStyle","value":{"fill":"dash","dash":[8,6]}}]},
		 {"matcher":{"id":"byName","options":"b"},
		  "properties":[{"id":"color","value":{"mode":"fixed","fixedColor":"red"}}]}]`,
		`{"refId":"A","expr":"used","legendFormat":"{{pod}}"}`,
		`{"refId":"B","expr":"most","legendFormat":"{{pod}} most"}`))
	require.NoError(t, err)
	assert.Equal(t, map[string]int{
		hex(namedColors["red"]): 2, hex(palette[0]): 2,
		hex(darker(palette[0])) + " 8,6": 1, hex(darker(palette[0])) + " 5,3": 1,
	}, p.lines)
}

func TestAStatIsTheNumberAtTheEnd(t *testing.T) {
	number := func(value string) string { return fmt.Sprintf(`[{"metric":{},"value":[%d,%q]}]`, last, value) }
	address, asked := served(t, map[string]string{"share": number("0.0123"), "max": number("3"), "none": "[]"})
	p, err := drawn(t, address, "-dashboard", board(t, "stat",
		`"defaults":{"unit":"percentunit","decimals":1}`, `{"refId":"A","expr":"share","instant":true}`))
	require.NoError(t, err)
	assert.True(t, p.has("1.2 %"), p.texts)
	assert.Equal(t, url.Values{"query": {"share"}, "time": {"1764090600"}}, (*asked)[0])

	p, err = drawn(t, address, "-dashboard", board(t, "stat", "",
		`{"refId":"A","expr":"max","legendFormat":"up"}`, `{"refId":"B","expr":"max","legendFormat":"max"}`))
	require.NoError(t, err)
	assert.Subset(t, p.texts, []string{"3", "up", "max"})

	p, err = drawn(t, address, "-dashboard", board(t, "stat",
		`"defaults":{"noValue":"no requests"}`, `{"refId":"A","expr":"none"}`))
	require.NoError(t, err)
	assert.True(t, p.has("no requests"), p.texts)
}

func TestALongLegendTellsHowManyItLeavesOut(t *testing.T) {
	var series []any
	for i := range 40 {
		series = append(series, fmt.Sprintf(`{"pod":"ollama-chat-7c9d8f6b5-%05d"}`, i), []float64{float64(i)})
	}
	address, _ := served(t, map[string]string{"x": matrix(series...)})
	p, err := drawn(t, address, "-dashboard", board(t, "timeseries", "", `{"expr":"x","legendFormat":"{{pod}}"}`))
	require.NoError(t, err)
	named := 0
	for _, text := range p.texts {
		if strings.HasPrefix(text, "ollama-chat-") {
			named++
		}
	}
	assert.Greater(t, named, legendLines, "more than one on a line")
	assert.True(t, p.has(fmt.Sprintf("and %d more", 40-named)), "%d named: %q", named, p.texts)
	assert.Equal(t, 40, p.dots, "all are drawn")
}

func TestAChartHasOneTimeAxisAndLinesFromAFile(t *testing.T) {
	address, _ := served(t, map[string]string{"sum(inflight)": matrix(`{}`, []float64{1, 1, 4, 4})})
	csv := write(t, "clients.csv", `time,series,value
2025-11-25T17:00:10.5Z,clients,6
2025-11-25T17:00:00Z,clients,0
2025-11-25T17:00:10.499Z,clients,0
2025-11-25T17:10:00.9Z,clients,6
`)
	chart := write(t, "chart.json", `{"title":"Up and down","panels":[
		{"title":"Clients","unit":"short","targets":[{"csv":"clients","legendFormat":"clients"}]},
		{"title":"In flight","unit":"short","targets":[{"expr":"sum(inflight)","legendFormat":"in flight"}]},
		{"title":"Time","unit":"s","targets":[{"expr":"sum(inflight)","legendFormat":"slots","dashed":true}]}]}`)
	p, err := drawn(t, address, "-chart", chart, "-data", csv)
	require.NoError(t, err)
	assert.Subset(t, p.texts, []string{
		"Up and down", "Clients", "In flight", "Time", "clients", "in flight", "6", "4", "4 s",
		"seconds since 2025-11-25 17:00:00 UTC",
	})
	seconds := 0
	for _, text := range p.texts {
		if text == "300" {
			seconds++
		}
	}
	assert.Equal(t, 1, seconds, "one axis has the seconds: %q", p.texts)
	assert.Equal(t, map[string]int{
		hex(palette[0]): 4, hex(palette[0]) + " 6,4": 1, hex(palette[0]) + " 5,3": 1,
	}, p.lines)
}

func TestALineHasNoMorePointsThanItNeeds(t *testing.T) {
	for length, want := range map[time.Duration]time.Duration{
		time.Second: time.Second, 149 * time.Second: time.Second, 150 * time.Second: 2 * time.Second,
		10 * time.Minute: 5 * time.Second, 24 * time.Hour: 577 * time.Second,
	} {
		s := span{to: time.Time{}.Add(length)}
		assert.Equal(t, want, s.step(), length)
		assert.LessOrEqual(t, int(length/s.step())+1, mostPoints, length)
	}
	flat := line{gap: math.Inf(1), points: []point{{0, 1}, {1, 1}, {2, 1}, {3, 2}, {4, 2}, {5, 2}, {6, 2}}}
	assert.Equal(t, [][]point{{{0, 1}, {2, 1}, {3, 2}, {6, 2}}}, flat.pieces())
	assert.Equal(t, []point{{0, 1}, {3, 1}, {3, 2}, {6, 2}}, stairs([]point{{0, 1}, {3, 2}, {6, 2}}))
}

// With a rate over less than the step, the line would miss what happens between two points.
func TestARateCoversTheStep(t *testing.T) {
	address, _ := served(t, map[string]string{"rate(x[577s])": "[]"})
	_, err := drawn(t, address, "-dashboard", board(t, "timeseries", "", `{"expr":"rate(x[$__rate_interval])"}`),
		"-to", "2025-11-26T17:00:00Z")
	require.NoError(t, err)
}

func TestNumbersAreWrittenInTheirUnits(t *testing.T) {
	two := 2
	for _, c := range []struct {
		unit     string
		value    float64
		decimals *int
		want     string
	}{
		{"s", 0.25, nil, "250 ms"}, {"s", 90, nil, "90 s"}, {"s", 600, nil, "10 min"}, {"s", 14400, nil, "4 h"},
		{"bytes", 1 << 20, nil, "1 MiB"}, {"bytes", 42.5 * (1 << 30), nil, "42.5 GiB"}, {"bytes", 0, nil, "0 B"},
		{"percentunit", 0.0512, &two, "5.12 %"}, {"reqps", 1.2345, nil, "1.23 req/s"}, {"reqpm", 600, nil, "600 req/min"},
		{"short", 12345, nil, "12345"}, {"none", 0.001234, nil, "0.00123"}, {"lux", 3, nil, "3 lux"},
	} {
		assert.Equal(t, c.want, scaleOf(c.unit, c.value).format(c.value, c.decimals))
	}
}

func TestTicksAreRoundAndHoldTheData(t *testing.T) {
	for _, c := range []struct {
		low, high float64
		unit      string
		whole     bool
		want      string
	}{
		{0, 3, "short", true, "0 1 2 3"},
		{0, 1, "short", true, "0 1"},
		{0, 0, "short", true, "0 1"},
		{0, 9.3, "s", false, "0 s 2 s 4 s 6 s 8 s 10 s"},
		{0, 0.108, "percentunit", false, "0.0 % 2.5 % 5.0 % 7.5 % 10.0 % 12.5 %"},
		{0, 135 << 30, "bytes", true, "0 GiB 50 GiB 100 GiB 150 GiB"},
		{-2, 2, "none", true, "-2 -1 0 1 2"},
		{0, 0.0004, "s", false, "0.0 ms 0.1 ms 0.2 ms 0.3 ms 0.4 ms"},
	} {
		a := valueAxis(c.low, c.high, c.unit, c.whole, 5)
		var labels []string
		for _, tick := range a.ticks {
			labels = append(labels, tick.label)
		}
		assert.Equal(t, c.want, strings.Join(labels, " "))
		assert.LessOrEqual(t, a.low, c.low)
		assert.GreaterOrEqual(t, a.high, c.high)
	}
}

func TestRowsOfAFileMayStandInAnyOrder(t *testing.T) {
	s, err := parseSpan(began, ended)
	require.NoError(t, err)
	series, err := readData(write(t, "data.csv", `2025-11-25T17:00:10.5Z,a,6
2025-11-25T17:00:00Z,a,0
2025-11-25T18:00:10.499+01:00,a,0
2025-11-25T17:00:00Z,b,1
`), s)
	require.NoError(t, err)
	assert.Equal(t, map[string][]point{"a": {{0, 0}, {10.499, 0}, {10.5, 6}}, "b": {{0, 1}}}, series)
}
