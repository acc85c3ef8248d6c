package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// FirstTokens sends a streaming request, as a user would, and returns the text of the answer. While the front has no
// server ready, it retries for up to a minute: the front learns of a new pod from DNS within seconds.
func FirstTokens(ctx context.Context, endpoint, key, model string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		text, retry, err := ask(ctx, endpoint, key, model)
		if err == nil || !retry {
			return text, err
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("the endpoint gave no answer for a minute: %w", err)
		case <-time.After(500 * time.Millisecond): // the front looks for new pods every 2 s
		}
	}
}

func ask(ctx context.Context, endpoint, key, model string) (text string, retry bool, err error) {
	body, err := json.Marshal(map[string]any{
		"model": model, "stream": true, "messages": []map[string]string{{"role": "user", "content": "Hello"}},
	})
	if err != nil {
		return "", false, err
	}
	url := endpoint + "/v1/chat/completions"
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return "", false, err
	}
	request.Header.Set("Authorization", "Bearer "+key)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", true, err
	}
	defer response.Body.Close()
	if status := response.StatusCode; status != http.StatusOK {
		said, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
		if err != nil {
			return "", true, err
		}
		err = fmt.Errorf("%s says %s: %s", endpoint, response.Status, said)
		return "", status == http.StatusServiceUnavailable, err
	}
	var answer strings.Builder
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok || data == "[DONE]" {
			continue
		}
		var chunk struct {
			Choices []struct {
				Delta struct{ Content string }
			}
		}
		if err := json.Unmarshal([]byte(data), &chunk); err != nil {
			return "", false, fmt.Errorf("a chunk of the stream is not JSON: %w: %s", err, data)
		}
		for _, choice := range chunk.Choices {
			answer.WriteString(choice.Delta.Content)
		}
	}
	if err := lines.Err(); err != nil {
		return "", false, err
	}
	if answer.Len() == 0 {
		return "", false, fmt.Errorf("%s answered without a token", endpoint)
	}
	return answer.String(), false, nil
}
