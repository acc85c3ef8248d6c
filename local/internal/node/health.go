//go:build linux

package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pollInterval is the time between two checks of a condition.
const pollInterval = 100 * time.Millisecond

// healthLimit is how long a part may take to become healthy: twenty times what it takes on two busy cores.
const healthLimit = 2 * time.Minute

// nothingToAsk is the health check of etcd, which listens inside the namespace only. The readiness of the API server
// includes etcd.
func nothingToAsk(context.Context) error { return nil }

// probe returns a health check over HTTP. It verifies no certificate: the answers are not secret, and some parts sign
// their certificate themselves. It presents the administrator's certificate, which the API server asks for.
func (c *cluster) probe(scheme, host string, port int, path string) func(context.Context) error {
	url := scheme + "://" + net.JoinHostPort(host, strconv.Itoa(port)) + path
	return func(ctx context.Context) error {
		client, err := c.prober()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s: %s", url, response.Status, strings.TrimSpace(string(body)))
		}
		return nil
	}
}

func (c *cluster) prober() (*http.Client, error) {
	pki := c.layout.pki()
	admin, err := tls.LoadX509KeyPair(filepath.Join(pki, "admin.crt"), filepath.Join(pki, "admin.key"))
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{admin}},
	}}, nil
}

// dialRuntime connects to a member's containerd, whose socket is visible in its mount namespace only.
func (c *cluster) dialRuntime(m member) (*grpc.ClientConn, error) {
	socket := fmt.Sprintf("/proc/%d/root/run/containerd/containerd.sock", c.holders[m.Name].PID)
	return grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func (c *cluster) runtimeReady(ctx context.Context, m member) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	connection, err := c.dialRuntime(m)
	if err != nil {
		return err
	}
	defer connection.Close()
	_, err = runtimeapi.NewRuntimeServiceClient(connection).Version(ctx, &runtimeapi.VersionRequest{})
	return err
}

// await waits until the parts are healthy. It fails at once when any part ends that this run has seen running: the part
// that it waits for may suffer from the death of another.
func (c *cluster) await(ctx context.Context, inv inventory, names ...string) error {
	for _, name := range names {
		p := inv[name]
		err := c.poll(ctx, p.healthy)
		if dead := (*deadError)(nil); errors.As(err, &dead) {
			return c.failure(inv[dead.part], err)
		}
		if err != nil {
			return c.failure(p, fmt.Errorf("not healthy: %w", err))
		}
	}
	return nil
}

type deadError struct{ part string }

func (e *deadError) Error() string { return "the process has ended" }

// poll calls f until it returns nil. It returns f's last error when the time is up, and a *deadError as soon as a part
// has ended.
func (c *cluster) poll(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, healthLimit)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if name, ok := c.watched.dead(); ok {
			return &deadError{part: name}
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pollInterval):
		}
	}
}

// failure adds the part's name, the end of its log and the path of that log to an error.
func (c *cluster) failure(p part, err error) error {
	path := c.layout.log(p.name)
	lines := lastLines(path, 12)
	if lines == "" {
		lines = "(empty)"
	}
	return fmt.Errorf("%s: %w\nthe end of %s:\n%s", p.name, err, path, lines)
}

// lastLines returns the last n lines of a file, indented. It reads only the last 16 KiB.
func lastLines(path string, n int) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	const tail = 16 << 10
	if info, err := file.Stat(); err == nil && info.Size() > tail {
		if _, err := file.Seek(-tail, io.SeekEnd); err != nil {
			return ""
		}
	}
	data, err := io.ReadAll(file)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.TrimRight("  "+strings.Join(lines, "\n  "), " \n")
}
