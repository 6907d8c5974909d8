#!/usr/bin/env bash
set -euo pipefail
# The key comes from the unit's credentials.
export VLLM_API_KEY="$(cat "$CREDENTIALS_DIRECTORY/model-key")"
export VLLM_NO_USAGE_STATS=1
exec vllm serve /srv/models/qwen3-8b \
  --host 127.0.0.1 --port 8000 \
  --max-model-len 32768 \
  --served-model-name qwen3-8b
