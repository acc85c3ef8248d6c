package main

import (
	"context"
	"fmt"

	provider "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
	"golang.org/x/crypto/bcrypt"
)

// RandomPassword is the resource. It has no Update: as with the real one, each
// changed input, keepers included, replaces the password.
type RandomPassword struct{}

// RandomPasswordInputs are what a program sets. Check fills in the defaults,
// so that stating a default later is no change.
type RandomPasswordInputs struct {
	Keepers         map[string]string `pulumi:"keepers,optional"`
	Length          int               `pulumi:"length"`
	Lower           *bool             `pulumi:"lower,optional"`
	Upper           *bool             `pulumi:"upper,optional"`
	Number          *bool             `pulumi:"number,optional"`
	Numeric         *bool             `pulumi:"numeric,optional"`
	Special         *bool             `pulumi:"special,optional"`
	MinLower        *int              `pulumi:"minLower,optional"`
	MinUpper        *int              `pulumi:"minUpper,optional"`
	MinNumeric      *int              `pulumi:"minNumeric,optional"`
	MinSpecial      *int              `pulumi:"minSpecial,optional"`
	OverrideSpecial *string           `pulumi:"overrideSpecial,optional"`
}

// RandomPasswordState is what the engine keeps; both results are secrets.
type RandomPasswordState struct {
	RandomPasswordInputs
	Result     string `pulumi:"result" provider:"secret"`
	BcryptHash string `pulumi:"bcryptHash" provider:"secret"`
}

// Annotate gives the resource the token that the SDK registers.
func (p *RandomPassword) Annotate(a infer.Annotator) {
	a.SetToken("index/randomPassword", "RandomPassword")
	a.Describe(&p, "A password that is generated once and kept until one of its inputs changes (stand-in).")
}

// Annotate states the real resource's defaults.
func (in *RandomPasswordInputs) Annotate(a infer.Annotator) {
	a.Describe(&in.Keepers, "Any values; a change of one of them makes a new password.")
	a.Describe(&in.Length, "The number of characters, at least 1 and at least the sum of the minimums.")
	for _, class := range []**bool{&in.Lower, &in.Upper, &in.Special} {
		a.SetDefault(class, true)
	}
	for _, minimum := range []**int{&in.MinLower, &in.MinUpper, &in.MinNumeric, &in.MinSpecial} {
		a.SetDefault(minimum, 0)
	}
}

// Check fills in the defaults and refuses inputs that no password can satisfy. Number is the deprecated name of
// Numeric: whichever is set decides for both.
func (*RandomPassword) Check(
	ctx context.Context, req infer.CheckRequest,
) (infer.CheckResponse[RandomPasswordInputs], error) {
	in, failures, err := infer.DefaultCheck[RandomPasswordInputs](ctx, req.NewInputs)
	if err != nil || len(failures) > 0 {
		return infer.CheckResponse[RandomPasswordInputs]{Inputs: in, Failures: failures}, err
	}
	yes := true
	switch {
	case in.Number == nil && in.Numeric == nil:
		in.Number, in.Numeric = &yes, &yes
	case in.Number == nil:
		in.Number = in.Numeric
	case in.Numeric == nil:
		in.Numeric = in.Number
	}
	// A length that another resource has yet to compute reads as 0 here;
	// the engine checks again with the real one before it creates anything.
	known := func(name string) bool { return !req.NewInputs.Get(name).HasComputed() }
	if known("length") {
		for _, problem := range in.alphabet().problems(in.Length) {
			failures = append(failures, provider.CheckFailure{Property: "length", Reason: problem})
		}
	}
	if *in.Number != *in.Numeric && known("number") && known("numeric") {
		failures = append(failures, provider.CheckFailure{
			Property: "number",
			Reason:   fmt.Sprintf("is %t while numeric, its newer name, is %t: set numeric only", *in.Number, *in.Numeric),
		})
	}
	return infer.CheckResponse[RandomPasswordInputs]{Inputs: in, Failures: failures}, nil
}

// WireDependencies makes the results secret for every program, not only for
// those whose SDK asks for it, as Pulumi's own SDKs do.
func (*RandomPassword) WireDependencies(f infer.FieldSelector, args *RandomPasswordInputs, state *RandomPasswordState) {
	for _, result := range []*string{&state.Result, &state.BcryptHash} {
		f.OutputField(result).DependsOn(f.InputField(args))
		f.OutputField(result).AlwaysSecret()
	}
}

// Create makes the password; a preview makes none. The ID is not secret, so it says nothing, as in the real plugin.
func (*RandomPassword) Create(
	_ context.Context, req infer.CreateRequest[RandomPasswordInputs],
) (infer.CreateResponse[RandomPasswordState], error) {
	created := infer.CreateResponse[RandomPasswordState]{
		ID:     "none",
		Output: RandomPasswordState{RandomPasswordInputs: req.Inputs},
	}
	if req.DryRun {
		return created, nil
	}
	password, err := req.Inputs.alphabet().password(req.Inputs.Length)
	if err != nil {
		return created, fmt.Errorf("generating password %s: %w", req.Name, err)
	}
	// bcrypt reads 72 bytes at most and refuses more; the real plugin cuts too.
	hash, err := bcrypt.GenerateFromPassword([]byte(password)[:min(len(password), 72)], bcrypt.DefaultCost)
	if err != nil {
		return created, fmt.Errorf("hashing password %s: %w", req.Name, err)
	}
	created.Output.Result, created.Output.BcryptHash = password, string(hash)
	return created, nil
}

func (in RandomPasswordInputs) alphabet() alphabet {
	special := specialCharacters
	if in.OverrideSpecial != nil && *in.OverrideSpecial != "" {
		special = *in.OverrideSpecial
	}
	return alphabet{
		{"lower", lowerCharacters, valueOf(in.Lower), valueOf(in.MinLower)},
		{"upper", upperCharacters, valueOf(in.Upper), valueOf(in.MinUpper)},
		{"numeric", numericCharacters, valueOf(in.Numeric), valueOf(in.MinNumeric)},
		{"special", special, valueOf(in.Special), valueOf(in.MinSpecial)},
	}
}

func valueOf[T any](pointer *T) T {
	var zero T
	if pointer == nil {
		return zero
	}
	return *pointer
}
