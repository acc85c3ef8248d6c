package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// prometheus is the HTTP API of a Prometheus.
type prometheus struct{ base string }

// answerTime is longer than Prometheus gives a query. A proxy in between might wait for ever.
const answerTime = 150 * time.Second

type answer struct {
	series   []series
	warnings []string
}

// series is an element of either kind of answer: many values, or one.
type series struct {
	Metric map[string]string
	Values []sample
	Value  *sample
}

type sample struct {
	at    float64 // Unix seconds
	value float64
}

func (s *sample) UnmarshalJSON(text []byte) error {
	var value string
	if err := json.Unmarshal(text, &[]any{&s.at, &value}); err != nil {
		return err
	}
	var err error
	s.value, err = strconv.ParseFloat(value, 64)
	return err
}

// ask queries an expression for the whole span, or only for its value at the end.
func (p *prometheus) ask(ctx context.Context, expr string, s span, atEnd bool) (answer, error) {
	path, params := "api/v1/query_range", url.Values{
		"query": {expr}, "start": {unix(s.from)}, "end": {unix(s.to)}, "step": {unix(time.Unix(0, int64(s.step())))},
	}
	if atEnd {
		path, params = "api/v1/query", url.Values{"query": {expr}, "time": {unix(s.to)}}
	}
	address, err := url.JoinPath(p.base, path)
	if err != nil {
		return answer{}, fmt.Errorf("-prometheus is %q: %w", p.base, err)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(params.Encode()))
	if err != nil {
		return answer{}, fmt.Errorf("-prometheus is %q: %w", p.base, err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // the message below has the address
		}
		return answer{}, fmt.Errorf("no Prometheus answers at %s (%w): check that it runs and that -prometheus is right",
			p.base, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}, fmt.Errorf("reading the answer of %s: %w", address, err)
	}

	var said struct {
		Status, ErrorType, Error string
		Warnings                 []string
		Data                     struct {
			ResultType string
			Result     json.RawMessage
		}
	}
	if err := json.Unmarshal(body, &said); err != nil || said.Status == "" {
		return answer{}, fmt.Errorf("%s answers %s, and not like a Prometheus: check -prometheus",
			address, response.Status)
	}
	if said.Status != "success" {
		return answer{}, fmt.Errorf("the Prometheus at %s refuses the query %s: %s: %s",
			p.base, expr, said.ErrorType, said.Error)
	}
	found := answer{warnings: said.Warnings}
	if said.Data.ResultType == "scalar" {
		found.series = []series{{Value: &sample{}}}
		err = json.Unmarshal(said.Data.Result, found.series[0].Value)
	} else {
		err = json.Unmarshal(said.Data.Result, &found.series)
	}
	if err != nil {
		return answer{}, fmt.Errorf("%s answers the query %s with an invalid %s: %w",
			address, expr, said.Data.ResultType, err)
	}
	return found, nil
}

func unix(at time.Time) string {
	return strconv.FormatFloat(float64(at.UnixMilli())/1000, 'f', -1, 64)
}

// points returns the points that are numbers. A share of nothing, NaN, is not one.
func (s series) points(in span) []point {
	samples := s.Values
	if s.Value != nil {
		samples = []sample{*s.Value}
	}
	start := float64(in.from.UnixMilli()) / 1000
	var points []point
	for _, sample := range samples {
		if !math.IsNaN(sample.value) && !math.IsInf(sample.value, 0) {
			points = append(points, point{sample.at - start, sample.value})
		}
	}
	return points
}

// name returns the name of the series by a legend with {{label}}s, or by its labels if there is no legend.
func (s series) name(legend string) string {
	if legend == "" {
		return s.Metric["__name__"] + s.labels()
	}
	name := labelReference.ReplaceAllStringFunc(legend, func(found string) string {
		return s.Metric[labelReference.FindStringSubmatch(found)[1]]
	})
	return strings.Join(strings.Fields(name), " ")
}

// labels returns the labels of the series without its metric's name.
func (s series) labels() string {
	var labels []string
	for _, name := range slices.Sorted(maps.Keys(s.Metric)) {
		if name != "__name__" {
			labels = append(labels, fmt.Sprintf("%s=%q", name, s.Metric[name]))
		}
	}
	if len(labels) == 0 {
		return ""
	}
	return "{" + strings.Join(labels, ",") + "}"
}
