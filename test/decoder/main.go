// Command decoder reports what the pinned Ollama reads in a request: it has Ollama's own middlewares, types and
// decoder, without the server behind them. The fuzz test of the front compares this with what HAProxy judged. It is a
// module of its own, so that the program does not depend on Ollama.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/middleware"
)

// facts are what the server would act on. The front must have read the same.
type facts struct {
	ID     string `json:"id"` // of the request: its header X-Request-Id
	Path   string `json:"path"`
	Judged string `json:"judged"` // the model that the front judged: the header X-Judged-Model
	// Error is the reason why the server would refuse the body. The other fields then mean nothing.
	Error string `json:"error,omitempty"`

	Model     string `json:"model"`
	KeepAlive bool   `json:"keep_alive"` // set
	Shift     bool   `json:"shift"`      // set
	Truncate  *bool  `json:"truncate"`
	Stream    *bool  `json:"stream"`
	// Reloads are the options that load the model anew, as the request has them.
	Reloads map[string]any `json:"reloads"`
	// NumPredict is the effective one; 0 and less are unbounded.
	NumPredict int `json:"num_predict"`
}

// reloads are the options that Ollama compares with those of the loaded runner. The last one is new in Ollama 0.34.
var reloads = []string{"num_ctx", "num_gpu", "num_batch", "num_thread", "main_gpu", "use_mmap", "draft_num_predict"}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on; the first line of output is the actual address")
	drop := flag.Int64("drop", 0, "close the connection of every n-th request without an answer")
	flag.Parse()
	if err := run(*listen, *drop); err != nil {
		log.Fatal(err)
	}
}

func run(listen string, drop int64) error {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // Ollama warns about every option that it does not know
	gin.SetMode(gin.ReleaseMode)
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	server := &http.Server{Handler: routes(os.Stdout, drop)}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return server.Shutdown(ending)
}

// routes has the same routes as Ollama's server/routes.go. It writes a line of JSON to report for each request.
func routes(report io.Writer, drop int64) http.Handler {
	var writing sync.Mutex
	var count atomic.Int64
	lines := json.NewEncoder(report)

	r := gin.New()
	r.GET("/api/version", func(c *gin.Context) { c.JSON(http.StatusOK, gin.H{"version": "decoder"}) })
	r.Use(func(c *gin.Context) {
		if n := count.Add(1); drop > 0 && n%drop == 0 {
			_, _ = io.Copy(io.Discard, c.Request.Body) // an error ends the body, which is enough
			if connection, _, err := c.Writer.Hijack(); err == nil {
				_ = connection.Close()
			}
			c.Abort()
			return
		}
		judged, err := url.PathUnescape(c.GetHeader("X-Judged-Model"))
		if err != nil {
			judged = c.GetHeader("X-Judged-Model")
		}
		f := &facts{ID: c.GetHeader("X-Request-Id"), Path: c.Request.URL.Path, Judged: judged}
		f.Error = "refused by the middleware" // until a handler says otherwise
		c.Set("facts", f)
		c.Next()
		f.Model = cut(f.Model)
		writing.Lock()
		defer writing.Unlock()
		if err := lines.Encode(f); err != nil {
			log.Fatal(err) // nobody reads the report, so the test is over
		}
	}, gin.CustomRecoveryWithWriter(io.Discard, func(c *gin.Context, panicked any) {
		c.MustGet("facts").(*facts).Error = fmt.Sprintf("panic: %v", panicked)
		c.AbortWithStatus(http.StatusInternalServerError)
	}))

	r.POST("/api/generate", generate)
	r.POST("/api/chat", chat)
	r.POST("/api/embed", embed)
	r.POST("/api/embeddings", embeddings)
	r.POST("/v1/chat/completions", middleware.ChatMiddleware(), chat)
	r.POST("/v1/completions", middleware.CompletionsMiddleware(), generate)
	r.POST("/v1/embeddings", middleware.EmbeddingsMiddleware(), embed)
	r.POST("/v1/responses", middleware.ResponsesMiddleware(), chat)
	r.POST("/v1/messages", middleware.AnthropicMessagesMiddleware(), chat)
	return r
}

func generate(c *gin.Context) {
	var req api.GenerateRequest
	answer(c, c.ShouldBindJSON(&req), req.Options, func(f *facts) {
		f.Model, f.KeepAlive, f.Shift = req.Model, req.KeepAlive != nil, req.Shift != nil
		f.Stream, f.Truncate = req.Stream, req.Truncate
	})
}

func chat(c *gin.Context) {
	var req api.ChatRequest
	answer(c, c.ShouldBindJSON(&req), req.Options, func(f *facts) {
		f.Model, f.KeepAlive, f.Shift = req.Model, req.KeepAlive != nil, req.Shift != nil
		f.Stream, f.Truncate = req.Stream, req.Truncate
	})
}

func embed(c *gin.Context) {
	var req api.EmbedRequest
	answer(c, c.ShouldBindJSON(&req), req.Options, func(f *facts) {
		f.Model, f.KeepAlive, f.Truncate = req.Model, req.KeepAlive != nil, req.Truncate
	})
}

func embeddings(c *gin.Context) {
	var req api.EmbeddingRequest
	answer(c, c.ShouldBindJSON(&req), req.Options, func(f *facts) {
		f.Model, f.KeepAlive = req.Model, req.KeepAlive != nil
	})
}

// answer puts the facts into the header X-Decoded, because the middlewares would rewrite a body.
func answer(c *gin.Context, err error, options map[string]any, fill func(*facts)) {
	f := c.MustGet("facts").(*facts)
	effective := api.DefaultOptions()
	if err == nil {
		err = effective.FromMap(options)
	}
	if err != nil {
		f.Error = err.Error()
		c.Status(http.StatusBadRequest)
		c.Writer.WriteHeaderNow()
		return
	}
	f.Error, f.NumPredict, f.Reloads = "", effective.NumPredict, map[string]any{}
	fill(f)
	for _, name := range reloads {
		if value, set := options[name]; set && value != nil { // FromMap skips a null
			f.Reloads[name] = value
		}
	}
	text, err := json.Marshal(f)
	if err != nil {
		f.Error = err.Error()
		c.Status(http.StatusInternalServerError)
		c.Writer.WriteHeaderNow()
		return
	}
	c.Header("X-Decoded", url.PathEscape(cut(string(text))))
	c.Status(http.StatusOK)
	c.Writer.WriteHeaderNow()
}

// cut keeps a text short enough for a header. No model has such a long name.
func cut(text string) string {
	if len(text) > 1000 {
		return text[:1000] + "…"
	}
	return text
}
