//go:build e2e

package e2e

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// browser signs in like a person: it opens the front, is redirected to the provider and back, and then has a session.
func browser(t *testing.T, endpoint, issuer string) {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == "issuer.oidc.svc.cluster.local:8080" { // this machine does not use the cluster's DNS
			address = issuer
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	client := &http.Client{Jar: jar, Timeout: 30 * time.Second, Transport: &http.Transport{DialContext: dial}}
	nextUser := func(user string) {
		status, answer := askAt(t, "http://"+issuer, "POST", "/users", "", user)
		require.Equal(t, 200, status, answer)
	}
	open := func(path string) (int, string, string) {
		response, err := client.Get(endpoint + path)
		require.NoError(t, err)
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, response.Request.URL.String(), string(text)
	}
	nextUser(`{"Subject":"jane","Email":"jane@example.com","Groups":["/ml"]}`)

	status, _, answer := open("/v1/models")
	assert.Equal(t, 401, status, answer)
	status, at, answer := open("/")
	assert.Equal(t, 200, status, answer)
	assert.Equal(t, endpoint+"/v1/models", at, "redirected to the provider and back")
	assert.Contains(t, answer, "tiny:latest")
	status, _, answer = open("/api/version")
	assert.Equal(t, 200, status, "the session continues: %s", answer)
	status, _, _ = open("/api/show")
	assert.Equal(t, 403, status, "and gives no more access than a key")

	nextUser(`{"Subject":"joe","Email":"joe@example.com","Groups":["/others"]}`)
	client.Jar, err = cookiejar.New(nil)
	require.NoError(t, err)
	status, _, answer = open("/")
	assert.Equal(t, 403, status)
	assert.Contains(t, answer, "group_not_allowed")
}
