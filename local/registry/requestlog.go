package registry

import (
	"log/slog"
	"net/http"
	"time"
)

// logged writes a line for each request that next has answered.
func logged(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		start := time.Now()
		response := &recorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(response, req)
		log.Info("request",
			"method", req.Method,
			"host", req.Host,
			"path", req.URL.Path,
			"range", req.Header.Get("Range"),
			"status", response.status,
			"bytes", response.bytes,
			"took", time.Since(start),
			"client", req.RemoteAddr,
		)
	})
}

// recorder records the status and the size of an answer.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}
