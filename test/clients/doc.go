// Package clients sends requests to the front as its users do: with OpenAI's own Go client, and with Ollama's. It is a
// module of its own, so that the program does not depend on these clients.
package clients
