package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ours is the dashboard that the stack deploys.
const ours = "../../components/files/dashboard.json"

func TestOurDashboardIsDrawnWholeAndSmall(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v1/query" {
			fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector",`+
				`"result":[{"metric":{},"value":[%d,"1"]}]}}`, last)
			return
		}
		var series []any
		for i := range 6 {
			values := make([]float64, 121)
			for n := range values {
				values[n] = float64((n*7919 + i*104729) % 1000)
			}
			labels := fmt.Sprintf(`{"pool":"pool%d","model":"model%[1]d","team":"team%[1]d","pod":"pod%[1]d",`+
				`"gpu":"0","code":"%[1]dxx"}`, i)
			series = append(series, labels, values)
		}
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":"matrix","result":%s}}`, matrix(series...))
	}))
	defer server.Close()
	p, err := drawn(t, server.URL, "-dashboard", ours)
	require.NoError(t, err)
	page, err := readDashboard(ours)
	require.NoError(t, err)
	for _, panel := range page.panels {
		assert.True(t, p.has(panel.title), "%q is cut or missing in %q", panel.title, p.texts)
	}
	assert.Less(t, p.bytes, 500_000)
}

// Two panels on the same place would hide each other, and an empty place would be a hole.
func TestOurDashboardCoversTheGrid(t *testing.T) {
	page, err := readDashboard(ours)
	require.NoError(t, err)
	owner := map[[2]int]string{}
	rows := 0
	for _, panel := range page.panels {
		rows = max(rows, panel.y+panel.h)
		for y := panel.y; y < panel.y+panel.h; y++ {
			for x := panel.x; x < panel.x+panel.w; x++ {
				assert.Empty(t, owner[[2]int{x, y}], "%s has the same place", panel.title)
				owner[[2]int{x, y}] = panel.title
			}
		}
	}
	assert.Len(t, owner, rows*gridColumns)
}

func TestOurDashboardExplainsItselfAndFiltersEveryQuery(t *testing.T) {
	text, err := os.ReadFile(ours)
	require.NoError(t, err)
	var dashboard struct {
		Panels []struct {
			ID                       int
			Type, Title, Description string
			FieldConfig              struct{ Defaults struct{ Unit string } }
			Targets                  []struct{ RefID, Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(text, &dashboard))
	selector := regexp.MustCompile(`\b(ollama_\w+)(\{[^}]*\})?`)
	ids := map[int]string{}
	for _, panel := range dashboard.Panels {
		assert.Empty(t, ids[panel.ID], "%s has the same id", panel.Title)
		ids[panel.ID] = panel.Title
		if panel.Type == kindRow {
			continue
		}
		assert.Regexp(t, `^[A-Z0-9].*\.$`, panel.Description, panel.Title)
		assert.NotContains(t, strings.TrimSuffix(panel.Description, "."), ". ", "%s has one sentence", panel.Title)
		assert.NotEmpty(t, panel.FieldConfig.Defaults.Unit, panel.Title)
		require.NotEmpty(t, panel.Targets, panel.Title)
		for _, target := range panel.Targets {
			found := selector.FindAllStringSubmatch(target.Expr, -1)
			require.NotEmpty(t, found, target.Expr)
			for _, series := range found {
				assert.Contains(t, series[2], `namespace=~"$namespace"`, "%s of %s", series[1], panel.Title)
			}
		}
	}
}
