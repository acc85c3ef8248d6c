package components

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The scripts for real, in the shell of the Ollama image (dash), with a stub `ollama`.

// store is a model store that outlives one run of the writer.
type store struct {
	t   *testing.T
	dir string
}

func newStore(t *testing.T) *store {
	t.Parallel()
	return &store{t, t.TempDir()}
}

// write runs write-models.sh with the stub of testdata and returns its output, what it reported to the kubelet, and its
// exit code.
func (s *store) write(plan string, environment ...string) (output, report string, code int) {
	s.t.Helper()
	require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, "plan"), []byte(plan), 0o600))
	stub, err := filepath.Abs("testdata/stub")
	require.NoError(s.t, err)
	log := filepath.Join(s.t.TempDir(), "termination-log")
	command := exec.Command("dash", "files/write-models.sh", filepath.Join(s.dir, "plan"))
	command.Env = append([]string{
		"PATH=" + stub + ":" + os.Getenv("PATH"), "STUB_DIR=" + s.dir, "HOME=" + s.dir, "OLLAMA_MODELS=" + s.path(),
		"TERMINATION_LOG=" + log, "BACKOFF=0", "TRIES=2",
	}, environment...)
	out, err := command.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	told, err := os.ReadFile(log)
	if err != nil {
		require.ErrorIs(s.t, err, os.ErrNotExist)
	}
	assert.NoFileExists(s.t, filepath.Join(s.dir, "serving"), "the local server was left running")
	assert.DirExists(s.t, s.path("blobs"))
	assert.DirExists(s.t, s.path("manifests"))
	return string(out), string(told), command.ProcessState.ExitCode()
}

func (s *store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir, "models"}, parts...)...)
}

// manifest is what the store has under a path; empty for nothing.
func (s *store) manifest(path string) string {
	text, err := os.ReadFile(s.path("manifests", path))
	if err != nil {
		require.ErrorIs(s.t, err, os.ErrNotExist)
	}
	return string(text)
}

const (
	tinyPath  = "registry.ollama.ai/library/tiny/latest"
	tinyFrom  = "host:5000/library/tiny:latest host:5000/library/tiny/latest " + tinyPath
	otherPath = "registry.ollama.ai/library/other/latest"
)

// tinyDigest is the digest of what the stub pulls as tiny, in a version.
func tinyDigest(version string) string {
	blob := sha256.Sum256([]byte("host:5000/library/tiny:latest " + version))
	manifest := sha256.Sum256([]byte(`{"layers":[{"digest":"sha256:` + hex.EncodeToString(blob[:]) + `"}]}`))
	return "sha256:" + hex.EncodeToString(manifest[:])
}

func TestTheWriterPullsOffersAndCreates(t *testing.T) {
	s := newStore(t)
	modelfile := filepath.Join(t.TempDir(), "reviewer")
	require.NoError(t, os.WriteFile(modelfile, []byte("FROM tiny"), 0o600))
	reviewer := "registry.ollama.ai/library/reviewer/latest"
	out, report, code := s.write(
		"pull tiny:latest " + tinyFrom + " " + tinyDigest("1") + " --insecure\ncreate " +
			"reviewer:latest " + modelfile + " " + reviewer + "\n",
	)
	require.Zero(t, code, out)
	assert.Empty(t, report)
	assert.Contains(t, out, "all 2 models are in place")
	assert.Equal(t, []string{
		"pull --insecure host:5000/library/tiny:latest", "create reviewer:latest -f " + modelfile,
	}, calls(out))
	assert.NotEmpty(t, s.manifest(tinyPath))
	assert.NotEmpty(t, s.manifest(reviewer))
	assert.Empty(t, s.manifest("host:5000/library/tiny/latest"), "users see one name")
}

// withTiny is a store that has tiny, and the plan that put it there.
func withTiny(t *testing.T) (s *store, plan string) {
	t.Helper()
	s, plan = newStore(t), "pull tiny:latest "+tinyFrom+" "+tinyDigest("1")+"\n"
	out, _, code := s.write(plan)
	require.Zero(t, code, out)
	return s, plan
}

func TestTheWriterAsksNoRegistryForWhatIsInPlaceAtTheLockedDigest(t *testing.T) {
	s, plan := withTiny(t)
	out, _, code := s.write(plan, "STUB_FAIL=host:5000/library/tiny:latest")
	require.Zero(t, code, out)
	assert.Empty(t, calls(out))
	assert.Contains(t, out, "model tiny:latest: is in place")

	blobs, err := filepath.Glob(s.path("blobs", "sha256-*"))
	require.NoError(t, err)
	require.Len(t, blobs, 1)
	require.NoError(t, os.Remove(blobs[0]))
	out, _, code = s.write(plan)
	require.Zero(t, code, out)
	assert.Len(t, calls(out), 1, "a model that lacks a blob is not in place")
}

func TestTheWriterKeepsWhatServesWhenTheDigestIsAnother(t *testing.T) {
	s, _ := withTiny(t)
	before := s.manifest(tinyPath)
	out, report, code := s.write(
		"pull tiny:latest "+tinyFrom+" "+tinyDigest("3")+"\npull other:latest other:latest "+otherPath+" "+otherPath+" -\n",
		"STUB_VERSION=2",
	)
	assert.Equal(t, 1, code, out)
	assert.Contains(
		t, report,
		"model tiny:latest: the registry has "+tinyDigest("2")+", but models.lock.yaml says "+tinyDigest("3")+
			": run `make lock`",
	)
	assert.Contains(t, report, "failed models: tiny:latest\n")
	assert.Equal(t, before, s.manifest(tinyPath))
	assert.NotEmpty(t, s.manifest(otherPath), "the others are written")
	assert.Len(t, calls(out), 2, "another digest is not tried again")
}

func TestTheWriterNamesTheModelThatFailsAndStillTriesTheOthers(t *testing.T) {
	line := func(name string) string {
		path := "registry.ollama.ai/library/" + name + "/latest"
		return fmt.Sprintf("pull %[1]s:latest %[1]s:latest %[2]s %[2]s -\n", name, path)
	}
	s := newStore(t)
	out, report, code := s.write(line("good")+line("bad")+line("last"), "STUB_FAIL=bad:latest")
	require.Equal(t, 1, code, out)
	assert.Contains(
		t, report,
		`model bad:latest: "ollama pull bad:latest" failed 2 times; the last error: Error: pull model manifest: file does `+
			`not exist`,
	)
	assert.Contains(t, report, "failed models: bad:latest\n")
	assert.Equal(t, []string{"pull good:latest", "pull bad:latest", "pull bad:latest", "pull last:latest"}, calls(out))

	out, _, code = s.write(line("good"), "STUB_FAIL=good:latest")
	assert.Zero(t, code, out)
	assert.Contains(t, out, "the store keeps its version", "without a digest, what is there will do")

	require.NoError(t, os.WriteFile(s.path("manifests/registry.ollama.ai/library/good/latest"), nil, 0o600))
	out, _, code = s.write(line("good"), "STUB_FAIL=good:latest")
	assert.Equal(t, 1, code, "a manifest that a crash left empty will not:\n%s", out)
}

func TestTheWriterKeepsFromAModelfileWhatWasNotVerified(t *testing.T) {
	s := newStore(t)
	staged := func() string {
		text, err := os.ReadFile(filepath.Join(s.dir, "stage", "manifests", tinyPath))
		require.NoError(t, err)
		return string(text)
	}
	// Pulled under its own name, so that the pull itself writes what FROM reads.
	plan := "pull tiny:latest tiny:latest " + tinyPath + " " + tinyPath + " "
	out, _, code := s.write(plan + tinyDigest("1") + "\n")
	require.Equal(t, 1, code, out)
	assert.Empty(t, staged(), "FROM must fail on it; a missing one would be fetched")

	_, _, code = s.write(plan + "-\n")
	require.Zero(t, code)
	out, _, code = s.write(plan+tinyDigest("1")+"\n", "STUB_VERSION=2")
	require.Equal(t, 1, code, out)
	assert.Equal(t, s.manifest(tinyPath), staged())
}

func TestTheWriterSaysThatTheStoreTookNoManifest(t *testing.T) {
	s := newStore(t)
	require.NoError(t, os.MkdirAll(s.path(".new"), 0o755)) // in the way, even for root
	_, report, code := s.write("pull tiny:latest " + tinyFrom + " -\n")
	assert.Equal(t, 1, code)
	assert.Contains(t, report, "model tiny:latest: its manifest could not be written to "+s.path())
	assert.Empty(t, s.manifest(tinyPath))
}

func TestTheWriterPrunesWhatItPulledAndNothingElse(t *testing.T) {
	s := newStore(t)
	modelfile := filepath.Join(t.TempDir(), "reviewer")
	require.NoError(t, os.WriteFile(modelfile, []byte("FROM tiny"), 0o600))
	reviewer := "registry.ollama.ai/library/reviewer/latest"
	tiny, other := "pull tiny:latest "+tinyFrom+" -\n", "pull other:latest other:latest "+otherPath+" "+otherPath+" -\n"
	out, _, code := s.write(tiny + other + "create reviewer:latest " + modelfile + " " + reviewer + "\nprune\n")
	require.Zero(t, code, out)
	assert.NotContains(t, out, "pruning")
	blobs := func() int {
		found, err := filepath.Glob(s.path("blobs", "*"))
		require.NoError(t, err)
		return len(found)
	}
	assert.Equal(t, 3, blobs())
	require.NoError(t, os.MkdirAll(s.path("manifests/registry.ollama.ai/library/mine"), 0o755))
	require.NoError(t, os.WriteFile(s.path(
		"manifests/registry.ollama.ai/library/mine/latest",
	), []byte(s.manifest(reviewer)), 0o600))

	out, _, code = s.write(tiny)
	require.Zero(t, code, out)
	assert.NotEmpty(t, s.manifest(otherPath), "without prune nothing goes")
	out, _, code = s.write(tiny + "prune\n")
	require.Zero(t, code, out)
	assert.Contains(t, out, "pruning "+otherPath)
	assert.Empty(t, s.manifest(otherPath))
	assert.NotEmpty(t, s.manifest(tinyPath))
	assert.NotEmpty(t, s.manifest(reviewer), "what was created stays")
	assert.NotEmpty(t, s.manifest("registry.ollama.ai/library/mine/latest"), "and what somebody made")
	assert.Equal(t, 2, blobs())

	// The name now stands for something made: it is not the writer's to prune any more.
	out, _, code = s.write("create tiny:latest " + modelfile + " " + tinyPath + "\nprune\n")
	require.Zero(t, code, out)
	assert.NotEmpty(t, s.manifest(tinyPath))
	out, _, code = s.write("prune\n")
	require.Zero(t, code, out)
	assert.NotEmpty(t, s.manifest(tinyPath))
	assert.Contains(t, out, "all 0 models are in place")
}

func TestTheScheduledCheckReportsDriftAndChangesNothingThatServes(t *testing.T) {
	s, plan := withTiny(t)
	plan += "prune\n"
	before := s.manifest(tinyPath)
	out, _, code := s.write(plan, "MODE=check")
	assert.Zero(t, code, out)
	out, report, code := s.write(plan, "MODE=check", "STUB_VERSION=2")
	assert.Equal(t, 3, code, out)
	assert.Contains(t, report, "drift: tiny:latest is "+tinyDigest("2")+" in the registry, "+tinyDigest("1")+" here")
	assert.Equal(t, before, s.manifest(tinyPath))
	_, report, code = s.write(plan, "MODE=check", "STUB_FAIL=host:5000/library/tiny:latest")
	assert.Equal(t, 1, code)
	assert.Contains(t, report, "failed models: tiny:latest")
}

func TestTheScheduledCheckMissesWhatTheStoreHasNot(t *testing.T) {
	s, _ := withTiny(t)
	plan, locked := "pull tiny:latest "+tinyFrom+" -\n", "pull tiny:latest "+tinyFrom+" "+tinyDigest("1")+"\n"
	out, _, code := s.write(locked, "MODE=check")
	require.Zero(t, code, out)
	_, report, code := s.write(
		strings.Replace(locked, tinyDigest("1"), tinyDigest("2"), 1), "MODE=check", "STUB_VERSION=2",
	)
	assert.Equal(t, 1, code)
	assert.Contains(
		t, report, "model tiny:latest: is "+tinyDigest("1")+" in the store, but models.lock.yaml says "+tinyDigest("2"),
	)

	_, report, code = s.write(locked+"create mine Modelfile library/mine/latest\n", "MODE=check")
	assert.Equal(t, 1, code)
	assert.Contains(t, report, "model mine: is missing in the store")
	assert.Contains(t, report, "failed models: mine\n")

	require.NoError(t, os.Remove(s.path("manifests", tinyPath)))
	for _, plan := range []string{plan, locked} {
		_, report, code = s.write(plan, "MODE=check")
		assert.Equal(t, 1, code)
		assert.Contains(t, report, "model tiny:latest: is missing in the store")
	}
}

func TestOneWriterWaitsForTheOther(t *testing.T) {
	s := newStore(t)
	require.NoError(t, os.MkdirAll(s.path(), 0o755))
	holder := exec.Command("flock", s.path(".writer.lock"), "sh", "-c", "echo held; read _")
	stdin, err := holder.StdinPipe()
	require.NoError(t, err)
	held, err := holder.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, holder.Start())
	_, err = held.Read(make([]byte, 5))
	require.NoError(t, err)
	_, report, code := s.write("pull tiny:latest "+tinyFrom+" -\n", "LOCK_LIMIT=1")
	assert.Equal(t, 1, code)
	assert.Contains(t, report, "another writer still holds")
	require.NoError(t, stdin.Close())
	_ = holder.Wait() // read ended without a line: not its success matters but its end
	out, _, code := s.write("pull tiny:latest " + tinyFrom + " -\n")
	assert.Zero(t, code, out)
}

func TestTheWriterWaitsForAServerThatStartsSlowly(t *testing.T) {
	start := time.Now()
	out, _, code := newStore(t).write("pull tiny:latest "+tinyFrom+" -\n", "STUB_START=2")
	require.Zero(t, code, out)
	assert.GreaterOrEqual(t, time.Since(start), 2*time.Second)
	assert.Len(t, calls(out), 1)
}

func TestTheWriterGivesUpOnAServerThatEndsOrNeverAnswers(t *testing.T) {
	_, report, code := newStore(t).write("pull tiny:latest "+tinyFrom+" -\n", "STUB_START=never", "START_LIMIT=1")
	assert.Equal(t, 1, code)
	assert.Contains(t, report, "did not answer within 1 s")
	_, report, code = (&store{t, t.TempDir()}).write("pull tiny:latest "+tinyFrom+" -\n", "STUB_START=die")
	assert.Equal(t, 1, code)
	assert.Contains(t, report, "exited before it answered")
}

// calls are the pull and create commands that the stub was given.
func calls(output string) (found []string) {
	for _, line := range strings.Split(output, "\n") {
		if call, ok := strings.CutPrefix(line, "stub: "); ok {
			found = append(found, call)
		}
	}
	return found
}

const (
	established = "   1: 0100007F:2CAA 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000 0 1 1 0\n"
	listening   = "   0: 00000000:2CAA 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 1 1 0\n"
	otherPort   = "   2: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000 0 1 1 0\n"
	header      = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
)

func drain(t *testing.T, table, limit string) (string, time.Duration, error) {
	t.Helper()
	start := time.Now()
	out, err := exec.Command("dash", "files/drain.sh", "11434", limit, table).CombinedOutput()
	return string(out), time.Since(start), err
}

func TestTheDrainEndsOnceNobodyIsConnected(t *testing.T) {
	t.Parallel()
	table := filepath.Join(t.TempDir(), "tcp")
	require.NoError(t, os.WriteFile(table, []byte(header+listening+established+otherPort), 0o600))
	gone := make(chan error, 1)
	time.AfterFunc(9*time.Second, func() { gone <- os.WriteFile(table, []byte(header+listening+otherPort), 0o600) })
	out, took, err := drain(t, table, "60")
	require.NoError(t, err)
	require.NoError(t, <-gone)
	assert.Empty(t, out)
	assert.Greater(t, took, 10*time.Second, "it must wait for the connection and then for three quiet seconds")
	assert.Less(t, took, 20*time.Second)
}

func TestTheDrainGivesUpAtItsLimit(t *testing.T) {
	t.Parallel()
	table := filepath.Join(t.TempDir(), "tcp")
	require.NoError(t, os.WriteFile(table, []byte(header+listening+established), 0o600))
	out, took, err := drain(t, table, "2")
	require.NoError(t, err)
	assert.Contains(t, out, "connections to port 11434 are still open after 2 s")
	assert.Less(t, took, 6*time.Second)
}

func TestOAuth2ProxyIsTriedUntilTheProviderAnswersAndEndsWhenToldTo(t *testing.T) {
	t.Parallel()
	stub, err := filepath.Abs("testdata/oidc-stub")
	require.NoError(t, err)
	dir := t.TempDir()
	command := exec.Command("dash", "files/oidc.sh")
	command.Env = []string{"PATH=" + stub + ":" + os.Getenv("PATH"), "STUB_DIR=" + dir}
	require.NoError(t, command.Start())
	defer func() { _ = command.Process.Kill() }()
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(dir, "running"))
		return err == nil
	}, 20*time.Second, 50*time.Millisecond, "the second try")
	options, err := os.ReadFile(filepath.Join(dir, "running"))
	require.NoError(t, err)
	assert.Equal(
		t, "--config=/etc/oauth2-proxy/oauth2-proxy.cfg --alpha-config=/etc/oauth2-proxy/oauth2-proxy.yaml\n",
		string(options),
	)
	require.NoError(t, command.Process.Signal(syscall.SIGTERM))
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	select {
	case err := <-ended:
		assert.NoError(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("the script goes on after SIGTERM")
	}
	assert.FileExists(t, filepath.Join(dir, "ended"), "oauth2-proxy was told to end too")
}
