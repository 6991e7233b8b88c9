"""A GGUF file of an exported Hugging Face directory, for llama.cpp and Ollama."""
