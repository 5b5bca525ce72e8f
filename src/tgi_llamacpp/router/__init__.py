"""The router process: HTTP, validation, text. It never loads llama.cpp."""
