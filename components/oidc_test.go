package components

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ollama-k8s/internal/testcert"
)

// oauth2-proxy for real: its script and both configuration files, with an identity provider on loopback.

// signIn is an oauth2-proxy that runs, and the provider that it asks.
type signIn struct{ issuer, proxy string }

// oddSecret has what YAML, a shell and oauth2-proxy's replacement of variables could each misread.
const oddSecret = ` the client's "secret": #1, ${HOME} $1 %7B\n {[&*!|>@` + "`"

// writeOIDC writes the files of oauth2-proxy's container, on loopback, and returns their folder.
func writeOIDC(t *testing.T, o *OIDC, https bool, at ports) string {
	t.Helper()
	files, err := o.configFiles(https)
	require.NoError(t, err)
	dir := t.TempDir()
	certificate, _ := testcert.New(t)
	files["ca.crt"] = certificate
	for name, text := range files {
		text = strings.NewReplacer(
			"/etc/oauth2-proxy-ca/", dir+"/", "/etc/oauth2-proxy/", dir+"/",
			fmt.Sprintf("127.0.0.1:%d", portOAuth2Proxy), fmt.Sprintf("127.0.0.1:%d", at.oauth2Proxy),
			fmt.Sprintf("127.0.0.1:%d", portSignedIn), fmt.Sprintf("127.0.0.1:%d", at.signedIn),
		).Replace(text)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return dir
}

func oidcEnvironment(t *testing.T) []string {
	t.Helper()
	return []string{
		"PATH=" + filepath.Dir(tool(t, "OAUTH2_PROXY")) + ":" + os.Getenv("PATH"),
		"OAUTH2_PROXY_CLIENT_SECRET=" + oddSecret, "OAUTH2_PROXY_COOKIE_SECRET=" + strings.Repeat("c", 32),
	}
}

// startSignIn runs the provider, and oauth2-proxy as its container does, until the test ends.
func startSignIn(t *testing.T, o OIDC, at ports) *signIn {
	t.Helper()
	name := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	s := &signIn{"http://" + name, fmt.Sprintf("http://127.0.0.1:%d", at.oauth2Proxy)}
	o.IssuerURL = s.issuer + "/oidc"
	run := func(url string, command *exec.Cmd) {
		log := &output{}
		command.Stdout, command.Stderr = log, log
		command.WaitDelay = 10 * time.Second // for what the script leaves running
		require.NoError(t, command.Start())
		t.Cleanup(func() {
			_ = command.Process.Signal(syscall.SIGTERM)
			_ = command.Wait() // ended on purpose
			if t.Failed() {
				t.Log(log)
			}
		})
		require.Eventually(t, func() bool {
			response, err := client.Do(request(t, "GET", url, "", ""))
			if err != nil {
				return false
			}
			response.Body.Close()
			return response.StatusCode == http.StatusOK
		}, 20*time.Second, 50*time.Millisecond, "%s did not answer", url)
	}
	provider := exec.Command(tool(t, "ISSUER"), "-addr", name, "-name", name, "-client", "ollama", "-secret", oddSecret)
	run(s.issuer+"/healthz", provider)
	dir := writeOIDC(t, o.withDefaults(), false, at)
	script := exec.Command("dash", filepath.Join(dir, "oidc.sh"))
	script.Env = oidcEnvironment(t)
	run(s.proxy+"/ping", script)
	return s
}

// post sends an object to the provider and returns its answer.
func (s *signIn) post(t *testing.T, path string, body any) string {
	t.Helper()
	text, err := json.Marshal(body)
	require.NoError(t, err)
	response, err := client.Do(request(t, "POST", s.issuer+path, "", string(text)))
	require.NoError(t, err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode, string(answer))
	return string(answer)
}

// token is a valid one of the provider, with these claims besides.
func (s *signIn) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	all := map[string]any{
		"iss": s.issuer + "/oidc", "aud": "ollama", "sub": "4711", "preferred_username": "somebody",
		"email": "somebody@example.com", "email_verified": false,
		"exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(),
	}
	for claim, value := range claims {
		all[claim] = value
	}
	return s.post(t, "/sign", all)
}

// manyGroups make a token of 11 KiB.
func manyGroups() (many []string) {
	for i := range 250 {
		many = append(many, fmt.Sprintf("/departments/research/team-%d", i))
	}
	return many
}

func TestAGroupsTokenIsItsOwnWhateverTheNameContains(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{
		"/ml", "a,/ml", "a", "a:x", "a:", ":x", "x", " a", "a ", "A", "/ml\n", "/ml'", `/ml"`, "équipe", "role:ollama:user",
	} {
		token := oidcGroup{Group: name}.Token()
		assert.NotContains(t, token, ",", name)
		assert.NotContains(t, token, "'", name)
		assert.NotContains(t, seen, token, "%q and %q", name, seen[token])
		seen[token] = name
		decoded, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(token, "Basic "))
		require.NoError(t, err)
		assert.Equal(t, name+":"+groupPassword, string(decoded))
	}
}

func TestOAuth2ProxyAcceptsItsConfiguration(t *testing.T) {
	for name, test := range map[string]struct {
		oidc  OIDC
		https bool
	}{
		"only what is required":        {OIDC{IssuerURL: "https://id.example.com/realms/eng"}, true},
		"an authority of its own":      {OIDC{IssuerURL: "https://id.example.com/realms/eng", CABundle: "ca"}, true},
		"another provider, plain HTTP": {OIDC{IssuerURL: "https://id.example.com", Provider: "oidc"}, false},
		"all characters in a name":     {OIDC{IssuerURL: "https://id/$1", ClientID: `a "client": ${HOME} $2 #é\`}, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := writeOIDC(t, test.oidc.withDefaults(), test.https, freePorts(t))
			command := exec.Command(tool(t, "OAUTH2_PROXY"), "--config-test",
				"--config="+filepath.Join(dir, "oauth2-proxy.cfg"), "--alpha-config="+filepath.Join(dir, "oauth2-proxy.yaml"))
			command.Env = oidcEnvironment(t)
			out, err := command.CombinedOutput()
			require.NoError(t, err, string(out))
			assert.Contains(t, string(out), "configuration is valid")
		})
	}
}

func TestOAuth2ProxyPassesOnGroupsAndSubjectAndNothingElse(t *testing.T) {
	own := freePorts(t)
	requests := make(chan http.Header, 1)
	own.signedIn = portOf(t, stub(t, func(_ http.ResponseWriter, r *http.Request) { requests <- r.Header.Clone() }))
	s := startSignIn(t, OIDC{}, own)
	many, lineEnd, token := manyGroups(), "a\r\nX-Forwarded-Groups: /ml", oidcGroup{Group: "/ml"}.Token()
	roles := func(names ...string) map[string]any { return map[string]any{"roles": names} }
	for name, test := range map[string]struct {
		claims map[string]any
		want   []string
	}{
		"two groups, in their order": {map[string]any{"groups": []string{"/others", "/ml"}}, []string{"/others", "/ml"}},
		"a comma in a group's name":  {map[string]any{"groups": []string{"a,/ml", "/others"}}, []string{"a,/ml", "/others"}},
		"one string for a list":      {map[string]any{"groups": "/others,/ml"}, []string{"/others,/ml"}},
		"a line end":                 {map[string]any{"groups": []string{lineEnd}}, []string{lineEnd}},
		"a token for a group":        {map[string]any{"groups": []string{token}}, []string{token}},
		"many groups":                {map[string]any{"groups": many}, many},
		"no group":                   {nil, nil},
		"roles": {
			map[string]any{"realm_access": roles("x,/ml"), "resource_access": map[string]any{"ollama": roles("user")}},
			[]string{"role:x,/ml", "role:ollama:user"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			asked := request(t, "GET", s.proxy+"/v1/models", s.token(t, test.claims), "")
			for _, forged := range []string{
				"X-Forwarded-Groups", "x_forwarded_groups", "X-Forwarded-Subject", "X-Forwarded_Subject",
			} {
				asked.Header[forged] = []string{token} // any client can send it
			}
			asked.Header.Set("Cookie", "other=1")
			response, err := client.Do(asked)
			require.NoError(t, err)
			response.Body.Close()
			require.Equal(t, http.StatusOK, response.StatusCode)
			header, want := <-requests, ""
			for i, group := range test.want {
				if i > 0 {
					want += ","
				}
				want += oidcGroup{Group: group}.Token()
			}
			assert.Equal(t, want, header.Get("X-Forwarded-Groups"))
			assert.Equal(t, []string{"4711"}, header.Values("X-Forwarded-Subject"))
			for name, values := range header {
				assert.NotContains(t, strings.Join(values, " "), "somebody", name)
				assert.NotContains(t, strings.ToLower(name), "_", "a forged header")
			}
			for _, name := range []string{
				"Authorization", "Cookie", "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Preferred-Username",
				"X-Forwarded-Access-Token",
			} {
				assert.Empty(t, header.Values(name), name)
			}
		})
	}
}

func TestOAuth2ProxyRefusesTokensThatAreNotForIt(t *testing.T) {
	own := freePorts(t)
	own.signedIn = portOf(t, stub(t, func(http.ResponseWriter, *http.Request) {}))
	s := startSignIn(t, OIDC{}, own)
	for name, test := range map[string]struct {
		claims map[string]any
		status int
	}{
		"a good token":              {nil, 200},
		"one without an address":    {map[string]any{"email": nil}, 200},
		"an expired one":            {map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}, 401},
		"one for another client":    {map[string]any{"aud": "another"}, 401},
		"one for two clients":       {map[string]any{"aud": []string{"another", "ollama"}}, 200},
		"one of another issuer":     {map[string]any{"iss": "http://elsewhere/oidc"}, 401},
		"one without an audience":   {map[string]any{"aud": nil}, 401},
		"one without a subject too": {map[string]any{"email": nil, "sub": nil}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			response, err := client.Do(request(t, "GET", s.proxy+"/v1/models", s.token(t, test.claims), ""))
			require.NoError(t, err)
			response.Body.Close()
			assert.Equal(t, test.status, response.StatusCode)
		})
	}
}

func TestASignInAsksTheProviderForWhatIsConfigured(t *testing.T) {
	own := freePorts(t)
	s := startSignIn(t, OIDC{Provider: "oidc", Scope: "openid groups"}, own)
	browser := &http.Client{Timeout: client.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	response, err := browser.Do(request(t, "GET", s.proxy+"/oauth2/start?rd=/v1/models", "", ""))
	require.NoError(t, err)
	response.Body.Close()
	location, err := response.Location()
	require.NoError(t, err)
	assert.Equal(t, s.issuer+"/oidc/authorize", location.Scheme+"://"+location.Host+location.Path)
	asked := location.Query()
	assert.Equal(t, []string{"ollama", "openid groups", "S256", s.proxy + "/oauth2/callback"},
		[]string{asked.Get("client_id"), asked.Get("scope"), asked.Get("code_challenge_method"), asked.Get("redirect_uri")})
	assert.NotEmpty(t, asked.Get("code_challenge"))
}

// The whole way: a browser or a token, HAProxy, oauth2-proxy, HAProxy again.
func TestAUserWithACommaInAGroupsNameGetsNoOtherTeam(t *testing.T) {
	args, own := front(), freePorts(t)
	args.OIDC = &OIDC{ClientSecret: "client", Scope: "openid email groups", Groups: map[string]string{
		"/ml": "ide", "/ops": "batch", `it's "a", b`: "slow",
	}}
	s := startSignIn(t, *args.OIDC, own)
	server := stub(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"from":"stub"}`) })
	r, token := startAs(t, args, own, server), oidcGroup{Group: "/ml"}.Token()
	for name, test := range map[string]struct {
		groups []string
		model  string
		status int
		want   string
	}{
		"the group alone":                    {[]string{"/ml"}, "org/big:70b", 200, "stub"},
		"the group after another":            {[]string{"/others", "/ml"}, "org/big:70b", 200, "stub"},
		"the group after 250 others":         {append(manyGroups(), "/ml"), "org/big:70b", 200, "stub"},
		"two groups: the first name decides": {[]string{"/ops", "/ml"}, "org/big:70b", 200, "stub"},
		"another team's group":               {[]string{"/ops"}, "org/big:70b", 403, "model_not_allowed"},
		"a configured name with a comma":     {[]string{`it's "a", b`}, "tiny", 200, "stub"},
		"a part of that name":                {[]string{"b"}, "tiny", 403, "group_not_allowed"},
		"a comma and the group":              {[]string{"a,/ml", "/others"}, "tiny", 403, "group_not_allowed"},
		"the group and a comma":              {[]string{"/ml,"}, "tiny", 403, "group_not_allowed"},
		"a comma and the group's token":      {[]string{"a," + token}, "tiny", 403, "group_not_allowed"},
		"other letters":                      {[]string{"/ML"}, "tiny", 403, "group_not_allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			token := s.token(t, map[string]any{"groups": test.groups})
			asked := request(t, "POST", r.api+"/api/chat", token, fmt.Sprintf(`{"model":%q}`, test.model))
			status, body := r.answer(t, asked)
			assert.Equal(t, test.status, status, body)
			assert.Contains(t, body, test.want)
		})
	}
	for name, test := range map[string]struct {
		group  string
		status int
		want   string
	}{
		"a browser of the group":               {"/ml", 200, "stub"},
		"a browser of a group with that comma": {"a,/ml", 403, "group_not_allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			user := map[string]any{"Subject": "jane", "Email": "jane@example.com", "Groups": []string{test.group}}
			s.post(t, "/users", user)
			jar, err := cookiejar.New(nil)
			require.NoError(t, err)
			browser := &http.Client{Timeout: client.Timeout, Jar: jar}
			for _, path := range []string{"/", "/v1/models"} { // signs in, and has a session then
				response, err := browser.Get(r.api + path)
				require.NoError(t, err)
				body, err := io.ReadAll(response.Body)
				require.NoError(t, err)
				response.Body.Close()
				assert.Equal(t, test.status, response.StatusCode, string(body))
				assert.Contains(t, string(body), test.want)
				assert.Equal(t, "/v1/models", response.Request.URL.Path)
			}
		})
	}
}
