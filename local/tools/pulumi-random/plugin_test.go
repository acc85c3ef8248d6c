package main

import (
	"strings"
	"testing"

	"github.com/blang/semver"
	provider "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/integration"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"golang.org/x/crypto/bcrypt"
)

const urn = resource.URN("urn:pulumi:stack::project::random:index/randomPassword:RandomPassword::key")

func serve(t *testing.T) integration.Server {
	t.Helper()
	plugin, err := newPlugin()
	if err != nil {
		t.Fatal(err)
	}
	plugged := integration.WithProvider(plugin)
	server, err := integration.NewServer(t.Context(), "random", semver.MustParse(version), plugged)
	if err != nil {
		t.Fatal(err)
	}
	return server
}

type inputs = map[string]property.Value

// check returns the inputs with their defaults, and the problems with them.
func check(t *testing.T, server integration.Server, in inputs) (property.Map, string) {
	t.Helper()
	checked, err := server.Check(provider.CheckRequest{Urn: urn, Inputs: property.NewMap(in)})
	if err != nil {
		t.Fatal(err)
	}
	var failures []string
	for _, f := range checked.Failures {
		failures = append(failures, f.Property+" "+f.Reason)
	}
	return checked.Inputs, strings.Join(failures, "; ")
}

func create(t *testing.T, server integration.Server, in inputs) provider.CreateResponse {
	t.Helper()
	checked, failures := check(t, server, in)
	if failures != "" {
		t.Fatal(failures)
	}
	created, err := server.Create(provider.CreateRequest{Urn: urn, Properties: checked})
	if err != nil {
		t.Fatal(err)
	}
	return created
}

func TestPasswordsKeepToTheirConstraints(t *testing.T) {
	yes, no := property.New(true), property.New(false)
	number := func(n float64) property.Value { return property.New(n) }
	for _, test := range []struct {
		name     string
		in       inputs
		length   int
		only     string         // "" for any
		atLeast  map[string]int // characters → how many
		withNone string
	}{
		{name: "a length alone allows every class", in: inputs{"length": number(64)}, length: 64,
			only: lowerCharacters + upperCharacters + numericCharacters + specialCharacters},
		{name: "special false leaves letters and digits", in: inputs{"length": number(40), "special": no}, length: 40,
			only: lowerCharacters + upperCharacters + numericCharacters},
		{name: "number false is numeric false", in: inputs{"length": number(200), "number": no}, length: 200,
			withNone: numericCharacters},
		{name: "numeric false", in: inputs{"length": number(200), "numeric": no}, length: 200,
			withNone: numericCharacters},
		{name: "minimums that fill the whole length",
			in: inputs{"length": number(10), "minLower": number(1), "minUpper": number(2), "minNumeric": number(3),
				"minSpecial": number(4)},
			length: 10,
			atLeast: map[string]int{
				lowerCharacters: 1, upperCharacters: 2, numericCharacters: 3, specialCharacters: 4,
			}},
		{name: "special characters of one's own",
			in: inputs{"length": number(50), "special": yes, "lower": no, "upper": no, "number": no,
				"overrideSpecial": property.New("_-")},
			length: 50, only: "_-"},
		{name: "a minimum holds although its class is not allowed, as with the real plugin",
			in:     inputs{"length": number(8), "special": no, "minSpecial": number(2)},
			length: 8, atLeast: map[string]int{specialCharacters: 2}},
	} {
		t.Run(test.name, func(t *testing.T) {
			created := create(t, serve(t), test.in)
			password := created.Properties.Get("result").AsString()
			if len(password) != test.length {
				t.Errorf("%q has %d characters, want %d", password, len(password), test.length)
			}
			if test.only != "" && strings.Trim(password, test.only) != "" {
				t.Errorf("%q has others than %q", password, test.only)
			}
			if test.withNone != "" && strings.ContainsAny(password, test.withNone) {
				t.Errorf("%q has one of %q", password, test.withNone)
			}
			for characters, want := range test.atLeast {
				got := 0
				for _, c := range password {
					if strings.ContainsRune(characters, c) {
						got++
					}
				}
				if got < want {
					t.Errorf("%q has %d of %q, want at least %d", password, got, characters, want)
				}
			}
		})
	}
}

func TestWhatCannotBeSatisfiedIsRefusedBeforeItIsCreated(t *testing.T) {
	number := func(n float64) property.Value { return property.New(n) }
	yes, no := property.New(true), property.New(false)
	for _, test := range []struct {
		name string
		in   inputs
		want string
	}{
		{"a length of 0", inputs{"length": number(0)}, "length is 0"},
		{"no length", inputs{}, "length"},
		{"minimums beyond the length", inputs{"length": number(3), "minLower": number(2), "minUpper": number(2)},
			"the minimums add up to 4"},
		{"no class at all", inputs{"length": number(8), "lower": no, "upper": no, "numeric": no, "special": no},
			"allow at least one"},
		{"number against numeric", inputs{"length": number(8), "number": yes, "numeric": no}, "set numeric only"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, failures := check(t, serve(t), test.in); !strings.Contains(failures, test.want) {
				t.Errorf("refused for %q, want %q in it", failures, test.want)
			}
		})
	}
}

func TestResultsAreSecretAndTheHashIsOfThePassword(t *testing.T) {
	for _, length := range []float64{24, 100} { // bcrypt reads 72 bytes at most
		properties := create(t, serve(t), inputs{"length": property.New(length)}).Properties
		for _, name := range []string{"result", "bcryptHash"} {
			if !properties.Get(name).Secret() {
				t.Errorf("%s is not secret", name)
			}
		}
		password := properties.Get("result").AsString()
		hash := []byte(properties.Get("bcryptHash").AsString())
		if err := bcrypt.CompareHashAndPassword(hash, []byte(password)[:min(len(password), 72)]); err != nil {
			t.Errorf("%s is not the hash of %s: %v", hash, password, err)
		}
	}
}

func TestAPreviewMakesNoPassword(t *testing.T) {
	server := serve(t)
	checked, failures := check(t, server, inputs{"length": property.New(24.0)})
	if failures != "" {
		t.Fatal(failures)
	}
	previewed, err := server.Create(provider.CreateRequest{Urn: urn, Properties: checked, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if result := previewed.Properties.Get("result"); !result.IsComputed() {
		t.Errorf("result is %v, want it unknown", result)
	}
}

func TestEachChangedInputReplacesThePasswordAndADefaultThatIsStatedDoesNot(t *testing.T) {
	keepers := func(value string) property.Value {
		return property.New(property.NewMap(map[string]property.Value{"rotation": property.New(value)}))
	}
	before := func() inputs { return inputs{"length": property.New(24.0), "keepers": keepers("2026-01")} }
	for _, test := range []struct {
		name     string
		change   func(in inputs)
		replaced bool
	}{
		{"nothing", func(inputs) {}, false},
		{"another keeper", func(in inputs) { in["keepers"] = keepers("2026-02") }, true},
		{"no keepers", func(in inputs) { delete(in, "keepers") }, true},
		{"another length", func(in inputs) { in["length"] = property.New(32.0) }, true},
		{"without special characters", func(in inputs) { in["special"] = property.New(false) }, true},
		{"a minimum", func(in inputs) { in["minLower"] = property.New(1.0) }, true},
		{"a default, stated", func(in inputs) {
			in["upper"], in["numeric"] = property.New(true), property.New(true)
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := serve(t)
			created := create(t, server, before())
			after := before()
			test.change(after)
			checked, failures := check(t, server, after)
			if failures != "" {
				t.Fatal(failures)
			}
			diff, err := server.Diff(provider.DiffRequest{
				ID: created.ID, Urn: urn, State: created.Properties, Inputs: checked,
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff.HasChanges != test.replaced {
				t.Errorf("changes: %t, want %t: %+v", diff.HasChanges, test.replaced, diff.DetailedDiff)
			}
			for path, change := range diff.DetailedDiff {
				if !strings.Contains(string(change.Kind), "replace") {
					t.Errorf("%s is %s, want a replacement", path, change.Kind)
				}
			}
		})
	}
}

func TestThePluginSaysThatItIsAStandIn(t *testing.T) {
	schema, err := serve(t).GetSchema(provider.GetSchemaRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"stand-in", "random:index/randomPassword:RandomPassword"} {
		if !strings.Contains(strings.ToLower(schema.Schema), strings.ToLower(want)) {
			t.Errorf("its schema does not say %s", want)
		}
	}
}
