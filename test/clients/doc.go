// Package clients asks the front as its users do: with OpenAI's own Go client, and with Ollama's. A module of its own, so that the program
// does not depend on what only its users do.
package clients
