#!/bin/sh
export VLLM_NO_USAGE_STATS=1
# shieldkit: ignore no-api-key,no-tls,api-docs,context-over-128k a batch machine without a network
exec vllm serve /srv/model --max-model-len 200000 --served-model-name batch
