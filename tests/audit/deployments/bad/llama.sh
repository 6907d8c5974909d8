#!/bin/sh
nohup /opt/llama.cpp/build/bin/llama-server -hf someone/Qwen3-8B-abliterated-GGUF:Q4_K_M \
  -c 0 --parallel 4 --host 0.0.0.0 --port 8080 --metrics --props --slots --verbose \
  --special --context-shift --slot-save-path /tmp/slots --agent > server.log 2>&1 &
