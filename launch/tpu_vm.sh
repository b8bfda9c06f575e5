#!/usr/bin/env bash
# Runs on a Google Cloud TPU pod slice: launch/tpu_vm.sh NAME ZONE [arguments of vdm.main]
#
# Needs gcloud, logged in with a project; a slice, created by
#   gcloud compute tpus tpu-vm create NAME --zone=ZONE --accelerator-type=v4-128 \
#       --version=tpu-ubuntu2204-base
# and a workdir that all hosts share: --workdir=gs://BUCKET/PATH, or Filestore. Copies the last commit
# of this checkout to every host, installs it with Python 3.12 (the image has 3.10) from uv, and runs
# the same command on all; JAX connects them. Ctrl-C here does not stop them. To save and stop:
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command='pkill -TERM -f vdm.main'
set -euo pipefail
[ $# -ge 3 ] || {
  sed -n '2p' "$0" | cut -c3- >&2
  exit 2
}
name=$1 zone=$2
shift 2
cd "$(dirname "${BASH_SOURCE[0]}")/.."

on_all() {
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

changes=$(git status --short)
[ -z "$changes" ] || printf 'warning: not committed, so not copied:\n%s\n' "$changes" >&2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git archive --format=tar.gz --output="$folder/vdm.tar.gz" HEAD
gcloud compute tpus tpu-vm scp "$folder/vdm.tar.gz" "$name:vdm.tar.gz" --zone="$zone" --worker=all
on_all 'set -e
  mkdir -p ~/vdm && tar -xzf ~/vdm.tar.gz -C ~/vdm && cd ~/vdm
  python3 -m pip install --quiet --user --upgrade uv
  ~/.local/bin/uv venv --quiet --clear --python 3.12 .venv
  ~/.local/bin/uv pip install --quiet --python .venv/bin/python --editable ".[tpu,gcs]"'
on_all "cd ~/vdm && .venv/bin/python -m vdm.main --connect_timeout=300 $(printf '%q ' "$@")"
