// Command pacer answers like Ollama, at a fixed pace: a token every few milliseconds, for as many requests at a time as
// it has slots. Other requests wait inside it, as in Ollama. It replaces GPUs in tests that measure queues: real models
// on a machine with two cores would share the cores, and no queue would build up. GET /most returns the largest number
// of concurrent requests since the previous call.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"
)

func main() {
	address := flag.String("addr", ":11434", "`address` to listen on")
	slots := flag.Int("slots", 1, "`number` of requests to answer at a time")
	pace := flag.Duration("pace", 10*time.Millisecond, "`time` for each token")
	flag.Parse()
	server := &http.Server{Addr: *address, Handler: handler(*slots, *pace), ReadHeaderTimeout: 10 * time.Second}
	fmt.Fprintf(os.Stderr, "pacer: %v\n", server.ListenAndServe())
	os.Exit(1)
}

func handler(slots int, pace time.Duration) http.Handler {
	free := make(chan struct{}, slots)
	var lock sync.Mutex
	now, most := 0, 0
	count := func(change int) {
		lock.Lock()
		defer lock.Unlock()
		now += change
		most = max(most, now)
	}
	routes := http.NewServeMux()
	routes.HandleFunc("GET /api/version", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"version":"0.17.4"}`)
	})
	routes.HandleFunc("GET /most", func(w http.ResponseWriter, _ *http.Request) {
		lock.Lock()
		defer lock.Unlock()
		fmt.Fprint(w, most)
		most = now
	})
	routes.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
		count(1)
		defer count(-1)
		var asked struct {
			Tokens int `json:"max_tokens"`
		}
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		select {
		case free <- struct{}{}:
			defer func() { <-free }()
		case <-r.Context().Done():
			return
		}
		ticker := time.NewTicker(pace)
		defer ticker.Stop()
		for range asked.Tokens {
			select {
			case <-ticker.C:
			case <-r.Context().Done():
				return
			}
			fmt.Fprint(w, "data: {}\n\n")
			w.(http.Flusher).Flush()
		}
		fmt.Fprint(w, "data: [DONE]\n\n")
	})
	return routes
}
