# Sourced by the checks beside it, which set `port`, `server` (a process) and `work`, and have `log`.

# Waits until the server of process $server is healthy, since $1 (nanoseconds), and asks it a fact.
ask_server() {
  local start=$1 answer
  for _ in $(seq 300); do
    curl -fs "http://127.0.0.1:$port/health" && break
    kill -0 "$server" 2>/dev/null || { cat "$work/server.log"; exit 1; }
    sleep 0.1
  done
  log "healthy after $((($(date +%s%N) - start) / 1000000)) ms"
  answer=$(curl -fsS "http://127.0.0.1:$port/generate" -H 'content-type: application/json' \
    -d '{"inputs":"The capital of France is","parameters":{"max_new_tokens":8}}')
  log "/generate: $answer"
  [[ $answer == *Paris* ]] || { log "the answer does not name Paris"; exit 1; }
}
