package main

import (
	"crypto/rand"
	"fmt"
	"math/big"
)

const (
	lowerCharacters   = "abcdefghijklmnopqrstuvwxyz"
	upperCharacters   = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	numericCharacters = "0123456789"
	specialCharacters = "!@#$%&*()-_=+[]{}<>:?"
)

// class is one kind of character: whether a password may use it freely, and
// how many of it must be there (which holds even if it may not).
type class struct {
	name       string
	characters string
	allowed    bool
	minimum    int
}

// alphabet is what a password is made from.
type alphabet []class

// problems returns why no password of that length is possible, or nothing if one is.
func (a alphabet) problems(length int) []string {
	var found []string
	anyAllowed, required := false, 0
	for _, c := range a {
		anyAllowed = anyAllowed || c.allowed
		required += c.minimum
		if c.minimum < 0 {
			found = append(found, fmt.Sprintf("the minimum of %s characters is %d: use 0 or more", c.name, c.minimum))
		}
	}
	if length < 1 {
		found = append(found, fmt.Sprintf("is %d: use 1 or more", length))
	}
	if length < required {
		found = append(found, fmt.Sprintf("is %d, but the minimums add up to %d: raise the length or lower a minimum",
			length, required))
	}
	if !anyAllowed {
		found = append(found, "lower, upper, numeric and special are all false: allow at least one of them")
	}
	return found
}

// password draws the required characters of each class, fills up from all
// allowed ones, and shuffles, all from the system's secure source.
func (a alphabet) password(length int) (string, error) {
	var all string
	var drawn []byte
	for _, c := range a {
		if c.allowed {
			all += c.characters
		}
		required, err := draw(c.characters, c.minimum)
		if err != nil {
			return "", err
		}
		drawn = append(drawn, required...)
	}
	rest, err := draw(all, length-len(drawn))
	if err != nil {
		return "", err
	}
	drawn = append(drawn, rest...)
	for i := len(drawn) - 1; i > 0; i-- {
		j, err := below(i + 1)
		if err != nil {
			return "", err
		}
		drawn[i], drawn[j] = drawn[j], drawn[i]
	}
	return string(drawn), nil
}

func draw(characters string, count int) ([]byte, error) {
	drawn := make([]byte, count)
	for i := range drawn {
		n, err := below(len(characters))
		if err != nil {
			return nil, err
		}
		drawn[i] = characters[n]
	}
	return drawn, nil
}

// below returns a uniform number from 0 to n-1.
func below(n int) (int, error) {
	number, err := rand.Int(rand.Reader, big.NewInt(int64(n)))
	if err != nil {
		return 0, fmt.Errorf("reading random numbers: %w", err)
	}
	return int(number.Int64()), nil
}
