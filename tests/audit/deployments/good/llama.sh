#!/bin/sh
exec llama-server -m /srv/models/smollm2.gguf -c 32768 --parallel 1 \
  --host /run/llm/llama.sock --alias smollm2 --no-slots
