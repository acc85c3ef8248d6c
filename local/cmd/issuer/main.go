// Command issuer is an OpenID Connect provider for tests. It serves discovery, keys and the browser flow with redirects
// and codes, and it signs tokens with any claims. It signs anyone in, so never run it outside the embedded cluster.
//
//	POST /sign?key=other  body: the claims; returns a token, signed with the published key or with another key
//	POST /users           body: {"Subject", "Email", "Groups"} of the next user who signs in by browser
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/oauth2-proxy/mockoidc"
)

func main() {
	address := flag.String("addr", ":8080", "`address` to listen on")
	name := flag.String("name", "localhost:8080", "`host:port` under which clients reach this server")
	client := flag.String("client", "ollama", "`id` of the client")
	secret := flag.String("secret", "", "the client's `secret`")
	flag.Parse()
	if err := serve(*address, *name, *client, *secret); err != nil {
		fmt.Fprintf(os.Stderr, "issuer: %v\n", err)
		os.Exit(1)
	}
}

func serve(address, name, client, secret string) error {
	provider, err := mockoidc.NewServer(nil)
	if err != nil {
		return fmt.Errorf("making the provider: %w", err)
	}
	provider.ClientID, provider.ClientSecret = client, secret
	other, err := mockoidc.RandomKeypair(2048)
	if err != nil {
		return fmt.Errorf("making the other key: %w", err)
	}
	// The library's handlers work only on a started server, so start it on a loopback address that nobody uses.
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening on loopback: %w", err)
	}
	if err := provider.Start(inner, nil); err != nil {
		return fmt.Errorf("starting the provider: %w", err)
	}
	provider.Server.Addr = name // appears in tokens and in the discovery document; the listener is already open

	routes := http.NewServeMux()
	routes.Handle("/", provider.Server.Handler)
	routes.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	routes.HandleFunc("POST /sign", func(w http.ResponseWriter, r *http.Request) {
		claims := jwt.MapClaims{}
		if err := json.NewDecoder(r.Body).Decode(&claims); err != nil {
			http.Error(w, "the body must be an object of claims: "+err.Error(), http.StatusBadRequest)
			return
		}
		keys := provider.Keypair
		if r.URL.Query().Get("key") == "other" {
			keys = other
		}
		token, err := keys.SignJWT(claims)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, token)
	})
	routes.HandleFunc("POST /users", func(w http.ResponseWriter, r *http.Request) {
		user := &mockoidc.MockUser{EmailVerified: true}
		if err := json.NewDecoder(r.Body).Decode(user); err != nil {
			http.Error(w, "the body must be a user: "+err.Error(), http.StatusBadRequest)
			return
		}
		provider.QueueUser(user)
	})
	slog.Info("serving", "address", address, "issuer", provider.Issuer())
	server := &http.Server{Addr: address, Handler: routes, ReadHeaderTimeout: 10 * time.Second}
	return server.ListenAndServe()
}
