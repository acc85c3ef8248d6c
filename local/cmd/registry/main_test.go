package main

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

func TestItServesUntilItIsToldToStopAndThenEndsWell(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	logReader, logWriter := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- serve(ctx, "127.0.0.1:0", "", slog.New(slog.NewTextHandler(logWriter, nil)))
		logWriter.Close()
	}()
	log := bufio.NewReader(logReader)
	line, err := log.ReadString('\n')
	if err != nil {
		t.Fatalf("it ended before it served: %v", <-ended)
	}
	go func() { _, _ = io.Copy(io.Discard, log) }() // otherwise a full pipe would block the server

	address := regexp.MustCompile(`address=(\S+)`).FindStringSubmatch(line)
	if address == nil || !strings.Contains(line, "library/tiny:latest") {
		t.Fatalf("the first line in the log is %q, want the address and the models", line)
	}
	response, err := http.Get("http://" + address[1] + "/v2/library/tiny/manifests/latest")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("got %s for a model", response.Status)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func TestAnAddressThatIsTakenIsNamed(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	address := listener.Addr().String()
	err = serve(t.Context(), address, "", slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "listening on "+address) {
		t.Errorf("got error %v, want one that names %s", err, address)
	}
}
