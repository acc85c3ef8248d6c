// Command registry serves tiny generated models to `ollama pull`, and nothing else: see package registry.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"ollama-k8s/local/registry"
)

func main() {
	address := flag.String("addr", ":5000", "`address` to listen on")
	blobHost := flag.String("blob-host", "", "`host` or host:port to which blobs are redirected, another name of this "+
		"server (default: the IP address on which a request arrives)")
	flag.Usage = usage
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "registry: unexpected argument %q: it takes flags only, see -help\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, *address, *blobHost, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
		fmt.Fprintf(os.Stderr, "registry: %v\n", err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprint(flag.CommandLine.Output(), "Usage: registry [flags]\n\n"+
		"Serves tiny generated models to `ollama pull --insecure HOST:PORT/library/tiny`.\n\nFlags:\n")
	flag.PrintDefaults()
}

// serve returns when ctx has ended and the requests in flight are answered.
func serve(ctx context.Context, address, blobHost string, log *slog.Logger) error {
	models, err := registry.TinyModels()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", address, err)
	}
	server := &http.Server{
		Handler:           registry.Handler(models, blobHost, log),
		ReadHeaderTimeout: 10 * time.Second, // a silent client must not hold a connection
	}
	log.Info("serving", "address", listener.Addr().String(), "models", strings.Join(models.Names(), " "))

	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving on %s: %w", address, err)
	case <-ctx.Done():
	}
	log.Info("stopping")
	// Well within the 30 s that Kubernetes grants; the largest blob takes milliseconds.
	shutdown, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := server.Shutdown(shutdown); err != nil {
		return fmt.Errorf("stopping: %w", err)
	}
	return nil
}
