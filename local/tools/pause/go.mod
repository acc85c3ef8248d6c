module ollama-k8s/local/tools/pause

go 1.26
