package clients

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ollama/ollama/api"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/shared"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sentence is the beginning of what the tiny model recites.
const sentence = "Hello! I am a tiny model made for tests"

// where returns the address of the front, and a key for it.
func where(t *testing.T) (endpoint, key string) {
	t.Helper()
	endpoint, key = os.Getenv("ENDPOINT"), os.Getenv("KEY")
	require.NotEmpty(t, endpoint, "ENDPOINT is not set: `make e2e` runs this test")
	require.NotEmpty(t, key, "KEY is not set: `make e2e` runs this test")
	return endpoint, key
}

func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestOpenAIsOwnClient(t *testing.T) {
	endpoint, key := where(t)
	client := openai.NewClient(option.WithBaseURL(endpoint+"/v1"), option.WithAPIKey(key), option.WithMaxRetries(0))
	hello := []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Hello")}
	ask := openai.ChatCompletionNewParams{Model: "tiny", Messages: hello}

	t.Run("lists models", func(t *testing.T) {
		page, err := client.Models.List(limit(t))
		require.NoError(t, err)
		var names []string
		for _, model := range page.Data {
			names = append(names, model.ID)
		}
		assert.Contains(t, names, "tiny:latest")
	})
	t.Run("chats", func(t *testing.T) {
		answer, err := client.Chat.Completions.New(limit(t), ask)
		require.NoError(t, err)
		assert.Contains(t, answer.Choices[0].Message.Content, sentence)
	})
	t.Run("streams", func(t *testing.T) {
		stream := client.Chat.Completions.NewStreaming(limit(t), ask)
		defer stream.Close()
		whole, pieces := openai.ChatCompletionAccumulator{}, 0
		for stream.Next() {
			require.True(t, whole.AddChunk(stream.Current()))
			pieces++
		}
		require.NoError(t, stream.Err())
		assert.Greater(t, pieces, 10, "one piece for each word")
		assert.Contains(t, whole.Choices[0].Message.Content, sentence)
	})
	t.Run("embeds", func(t *testing.T) {
		answer, err := client.Embeddings.New(limit(t), openai.EmbeddingNewParams{
			Model: "tiny-embed", Input: openai.EmbeddingNewParamsInputUnion{OfString: openai.String("a cat")},
		})
		require.NoError(t, err)
		assert.NotEmpty(t, answer.Data[0].Embedding)
	})
	t.Run("gets an answer that follows a schema", func(t *testing.T) {
		schema := shared.ResponseFormatJSONSchemaJSONSchemaParam{
			Name: "answer", Strict: openai.Bool(true), Schema: map[string]any{
				"type": "object", "properties": map[string]any{"ok": map[string]any{"type": "boolean"}},
				"required": []string{"ok"}, "additionalProperties": false,
			},
		}
		answer, err := client.Chat.Completions.New(limit(t), openai.ChatCompletionNewParams{
			Model: "tiny", Messages: hello, MaxTokens: openai.Int(200),
			ResponseFormat: openai.ChatCompletionNewParamsResponseFormatUnion{
				OfJSONSchema: &shared.ResponseFormatJSONSchemaParam{JSONSchema: schema},
			},
		})
		require.NoError(t, err)
		content := answer.Choices[0].Message.Content
		t.Log(content)
		var value map[string]bool
		require.NoError(t, json.Unmarshal([]byte(content), &value), "%q", content)
		assert.Contains(t, value, "ok")
	})
	t.Run("reads the front's errors as its own", func(t *testing.T) {
		unknown := openai.ChatCompletionNewParams{Model: "gpt-4o", Messages: hello}
		_, err := client.Chat.Completions.New(limit(t), unknown)
		var failure *openai.Error
		require.ErrorAs(t, err, &failure)
		want := []any{404, "model_not_found", "invalid_request_error"}
		assert.Equal(t, want, []any{failure.StatusCode, failure.Code, failure.Type})
	})
}

// keyed adds the team's key to each request, because Ollama's client has no keys.
type keyed string

func (k keyed) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(k))
	return http.DefaultTransport.RoundTrip(r)
}

func TestOllamasOwnClient(t *testing.T) {
	endpoint, key := where(t)
	base, err := url.Parse(endpoint)
	require.NoError(t, err)
	client := api.NewClient(base, &http.Client{Transport: keyed(key)})

	t.Run("lists models", func(t *testing.T) {
		list, err := client.List(limit(t))
		require.NoError(t, err)
		var names []string
		for _, model := range list.Models {
			names = append(names, model.Name)
		}
		assert.Contains(t, names, "tiny:latest")
	})
	t.Run("chats as a stream", func(t *testing.T) {
		var text strings.Builder
		pieces := 0
		ask := &api.ChatRequest{Model: "tiny", Messages: []api.Message{{Role: "user", Content: "Hello"}}}
		require.NoError(t, client.Chat(limit(t), ask, func(piece api.ChatResponse) error {
			text.WriteString(piece.Message.Content)
			pieces++
			return nil
		}))
		assert.Greater(t, pieces, 10)
		assert.Contains(t, text.String(), sentence)
	})
	t.Run("gets an answer that follows a schema", func(t *testing.T) {
		var text strings.Builder
		require.NoError(t, client.Generate(limit(t), &api.GenerateRequest{
			Model: "tiny", Prompt: "Hello", Options: map[string]any{"num_predict": 200},
			Format: json.RawMessage(`{"type":"object","properties":{"ok":{"type":"boolean"}},"required":["ok"]}`),
		}, func(piece api.GenerateResponse) error {
			text.WriteString(piece.Response)
			return nil
		}))
		assert.True(t, json.Valid([]byte(text.String())), text.String())
	})
	t.Run("embeds", func(t *testing.T) {
		answer, err := client.Embed(limit(t), &api.EmbedRequest{Model: "tiny-embed", Input: "a cat"})
		require.NoError(t, err)
		assert.NotEmpty(t, answer.Embeddings[0])
	})
	t.Run("gets an error for what it may not do", func(t *testing.T) {
		err := client.Delete(limit(t), &api.DeleteRequest{Model: "tiny"})
		require.Error(t, err)
	})
}
