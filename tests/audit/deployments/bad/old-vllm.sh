docker run -d --gpus all --ipc=host --network host --privileged \
  -v /:/host -v /var/run/docker.sock:/var/run/docker.sock \
  -e HF_TOKEN=hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789 \
  vllm/vllm-openai:v0.9.2 --model mistralai/Mistral-7B-Instruct-v0.3 --api-key token-abc123 --load-format pt
