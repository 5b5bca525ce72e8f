"""The engine process: admission, token budget, slots, decode. Ids in, ids out; it knows no text."""
