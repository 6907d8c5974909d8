#!/usr/bin/env bash
# Starts the assistant's model on the GPU box. Don't run it twice.
set -euo pipefail
MODEL=${MODEL:-acme/finetuned-qwen3}
export VLLM_SERVER_DEV_MODE=1
export VLLM_ALLOW_RUNTIME_LORA_UPDATING=True

exec vllm serve "$MODEL" \
  --host 0.0.0.0 --port 8000 \
  --trust-remote-code \
  --enable-lora \
  --max-model-len 1M \
  --served-model-name gpt-4o \
  --enable-log-requests \
  --allow-credentials \
  --trust-request-chat-template
